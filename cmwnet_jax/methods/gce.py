"""Generalised cross-entropy (Zhang and Sabuncu 2018)."""

from functools import partial

from cmwnet_jax.core import losses
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import Field, within
from cmwnet_jax.methods.plain import plain_training

FIELDS = {
    "loss.gce_q": Field(
        0.7,
        "gce and loss.name=gce: q of generalised cross-entropy, in (0, 1].",
        within("(0, 1]"),
    ),
}
"""Config fields of this method."""


def gce_loss(parts: Parts) -> losses.LossFn:
    """Makes the loss with the config's q."""
    return partial(losses.generalized_cross_entropy, q=parts.config.loss.gce_q)


def build(parts: Parts) -> Method:
    """Builds plain training on this loss."""
    return plain_training(parts, gce_loss(parts))


SPEC = Spec("gce", build, fields=FIELDS)
