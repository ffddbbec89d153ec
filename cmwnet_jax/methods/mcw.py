"""MCW: class-balanced weights plus a free term per example (Jamal et al. 2020)."""

import optax
from ml_collections import ConfigDict

from cmwnet_jax.core import free_weights
from cmwnet_jax.methods import class_balanced, meta_data
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.class_balanced import class_weights, objective_by_class
from cmwnet_jax.methods.fields import LARGE, Field, between, more_than_nothing
from cmwnet_jax.methods.free_weights import check as free_weights_check
from cmwnet_jax.methods.free_weights import freely_weighted

FIELDS = {
    "loss.mcw_learning_rate": Field(
        100.0,
        "mcw only: learning rate of the example weights; their gradients are divided by the batch size.",
        between(0, LARGE),
    ),
}
"""Config fields of this method alone."""


def build(parts: Parts) -> Method:
    """Builds training with class-balanced weights that the meta-gradient adjusts."""
    weight_fn = free_weights.class_and_free_weight_fn(class_weights(parts), parts.axis_name)
    weight_optimizer = optax.sgd(parts.config.loss.mcw_learning_rate)
    return freely_weighted(parts, objective_by_class(parts), weight_fn, weight_optimizer, "mean")


def check(config: ConfigDict) -> None:
    """Raises a UsageError for unsupported settings, or if the weights would never change."""
    free_weights_check(config)
    more_than_nothing(config, "loss.mcw_learning_rate")


SPEC = Spec("mcw", build, check, fields={**FIELDS, **class_balanced.FIELDS, **meta_data.FIELDS})
