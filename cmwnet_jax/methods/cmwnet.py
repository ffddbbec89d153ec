"""CMW-Net: one learned weighting function per meta-class (Sec. 3, Algorithm 1)."""

import numpy as np

from cmwnet_jax.core import objectives
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.methods import loss_names, weight_nets
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import Field, one_of
from cmwnet_jax.methods.loss_names import chosen_loss, head
from cmwnet_jax.methods.plain import warmup
from cmwnet_jax.methods.weight_nets import check, with_weight_net

_OWN_FIELDS = {
    "weight_net.class_feature": Field(
        "size",
        "cmwnet only: how meta-classes are assigned: size (by class size) or shuffled (at random, as a "
        "control).",
        one_of(("size", "shuffled")),
    ),
}
"""Config fields of this method alone."""


def build(parts: Parts) -> Method:
    """Builds the warm-up, then Algorithm 1; shuffled meta-classes are a control for the class feature."""
    objective = parts.objective(chosen_loss(parts))
    if parts.config.weight_net.class_feature == "shuffled":
        objective = objectives.with_meta_class(objective, shuffled_meta_classes(parts))
    return with_weight_net(parts, warmup(parts), objective, parts.config.weight_net.normalize)


def shuffled_meta_classes(parts: Parts) -> np.ndarray:
    """Permutes the examples' meta-classes at random. Their frequencies stay, but they carry no information.

    Args:
        parts: the pieces of the run.

    Returns:
        [N] int32, a meta-class per training example.
    """
    of_row = parts.meta_classes.of_class[parts.data.biased.given]
    rng = generator(parts.config.seed, Purpose.SHUFFLED_META_CLASSES)
    return rng.permutation(of_row).astype(np.int32)


SPEC = Spec(
    "cmwnet",
    build,
    check,
    head=head,
    num_meta_classes=lambda config: config.weight_net.num_meta_classes,
    fields={**weight_nets.FIELDS, **loss_names.FIELDS, **_OWN_FIELDS},
    options=(*weight_nets.OPTIONS, "loss.name", "low_memory", "weight_net.class_feature"),
)
