"""Empirical risk minimisation (plain training): the mean of the loss that `loss.name` selects."""

from ml_collections import ConfigDict

from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import more_than_nothing
from cmwnet_jax.methods.loss_names import FIELDS, chosen_loss, head
from cmwnet_jax.methods.plain import plain_training, warmup


def build(parts: Parts) -> Method:
    """Builds training with all weights one. With cross-entropy it is the same as the warm-up."""
    if parts.config.loss.name == "cross_entropy":
        return parts.method((warmup(parts),), warmup_epochs=parts.config.warmup_epochs)
    return plain_training(parts, chosen_loss(parts))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if the focal loss has gamma 0, which is cross-entropy."""
    if config.loss.name == "focal":
        more_than_nothing(config, "loss.focal_gamma")


SPEC = Spec(
    "erm",
    build,
    check,
    head=head,
    follows_warmup=lambda config: config.loss.name != "cross_entropy",
    fields=FIELDS,
    options=("loss.name",),
)
