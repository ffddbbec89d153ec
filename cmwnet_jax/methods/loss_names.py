"""The losses that `loss.name` chooses from, for methods that have none of their own."""

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
"""Per-example losses with the config's settings, by name."""


FIELDS = {
    **focal.FIELDS,
    **gce.FIELDS,
    **ldam.FIELDS,
    "loss.name": Field(
        "cross_entropy",
        "What erm, mwnet and cmwnet train on after the warm-up: cross_entropy, focal, gce or ldam (Q27).",
        one_of(LOSSES),
    ),
}
"""Config fields that it reads."""


def chosen_loss(parts: Parts) -> losses.LossFn:
    """The loss that the config names.

    Args:
        parts: the run's.
    """
    return LOSSES[parts.config.loss.name](parts)


def head(config: ConfigDict) -> Head:
    """The classifier's head: LDAM's margins are between cosines, whichever method trains on it (Q27).

    Args:
        config: the run's.
    """
    return cosine_head(config.loss.ldam_scale) if config.loss.name == "ldam" else linear_head
