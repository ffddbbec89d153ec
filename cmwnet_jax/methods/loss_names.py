"""The losses that `loss.name` selects from, for methods without a fixed loss."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from cmwnet_jax.core import losses
from cmwnet_jax.methods import focal, gce, ldam
from cmwnet_jax.methods.base import Parts
from cmwnet_jax.methods.fields import Field, one_of
from cmwnet_jax.models.heads import Head, cosine_head, linear_head

LOSSES: Mapping[str, Callable[[Parts], losses.LossFn]] = {
    "cross_entropy": lambda parts: losses.cross_entropy,
    "focal": focal.focal_loss,
    "gce": gce.gce_loss,
    "ldam": ldam.ldam_loss,
}
"""Name -> factory of the per-example loss with the config's settings."""


FIELDS = {
    **focal.FIELDS,
    **gce.FIELDS,
    **ldam.FIELDS,
    "loss.name": Field(
        "cross_entropy",
        "erm, mwnet and cmwnet: loss after the warm-up: cross_entropy, focal, gce or ldam (Q27).",
        one_of(LOSSES),
    ),
}
"""Config fields of `loss.name` and of its losses."""


def chosen_loss(parts: Parts) -> losses.LossFn:
    """Makes the loss that the config selects.

    Args:
        parts: the pieces of the run.
    """
    return LOSSES[parts.config.loss.name](parts)


def head(config: ConfigDict) -> Head:
    """The classifier's head. LDAM needs the cosine head with every method: its margins are on cosines (Q27).

    Args:
        config: the run's config.
    """
    return cosine_head(config.loss.ldam_scale) if config.loss.name == "ldam" else linear_head
