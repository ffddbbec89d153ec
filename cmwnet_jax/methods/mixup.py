"""Mixup (Zhang et al. 2018)."""

from ml_collections import ConfigDict

from cmwnet_jax.core import mixing
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import MANY, Field, between
from cmwnet_jax.methods.plain import after_warmup, weighted_step

FIELDS = {
    "mixup_alpha": Field(
        1.0,
        "mixup and cmwnet_sl: alpha of Beta(alpha, alpha) for training batches; 0: cmwnet_sl without mixup.",
        between(0, MANY),
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds plain training on mixed batches."""
    objective = mixing.mixed(parts.objective(), num_classes=parts.num_classes, alpha=parts.config.mixup_alpha)
    return after_warmup(parts, steps.weighted(weighted_step(parts, objective)))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if alpha is 0, which means no mixup."""
    if not config.mixup_alpha:
        raise UsageError("mixup_alpha is 0, expected a positive number with the method mixup")


SPEC = Spec("mixup", build, check, fields=FIELDS)
