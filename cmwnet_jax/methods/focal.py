"""Focal loss (Lin et al. 2017)."""

from functools import partial

from ml_collections import ConfigDict

from cmwnet_jax.core import losses
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import MANY, Field, between, more_than_nothing
from cmwnet_jax.methods.plain import plain_training

FIELDS = {
    "loss.focal_gamma": Field(
        1.0,
        "focal and loss.name=focal: gamma of the focal loss.",
        between(0, MANY),
    ),
}
"""Config fields of this method."""


def focal_loss(parts: Parts) -> losses.LossFn:
    """Makes the focal loss with the config's gamma."""
    return partial(losses.focal, gamma=parts.config.loss.focal_gamma)


def build(parts: Parts) -> Method:
    """Builds plain training on the focal loss."""
    return plain_training(parts, focal_loss(parts))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if gamma is 0, which is cross-entropy."""
    more_than_nothing(config, "loss.focal_gamma")


SPEC = Spec("focal", build, check, fields=FIELDS)
