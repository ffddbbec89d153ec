"""Checks a config's types and values before any data are read."""

from ml_collections import ConfigDict

from cmwnet_jax.data import bias
from cmwnet_jax.errors import naming_field
from cmwnet_jax.methods.fields import value_of
from cmwnet_jax.train.check_combined import check_combined
from cmwnet_jax.train.check_types import check_types
from cmwnet_jax.train.config import all_fields, default_config


def check_config(config: ConfigDict) -> None:
    """Checks everything in a config that can be checked without the data.

    Args:
        config: the config; may be anything that a user passes.

    Raises:
        UsageError: a field is missing, unknown or wrong; one sentence names the first.
    """
    defaults = default_config()
    check_types(config, defaults)
    for name, field in all_fields().items():
        field.check(name, value_of(config, name))
    with naming_field("data.bias"):
        bias.needs(config.data.bias)
    check_combined(config, defaults)
