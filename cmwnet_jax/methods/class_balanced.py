"""Class-balanced loss: weights from the effective number of examples per class (Cui et al. 2019)."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import losses, objectives
from cmwnet_jax.core.class_balance import class_balanced_weights, for_labels
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import ObjectiveFn
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import Field, more_than_nothing, within
from cmwnet_jax.methods.plain import after_warmup, weighted_step

FIELDS = {
    "loss.class_balanced_beta": Field(
        0.9999,
        "class_balanced, ldam and mcw: beta of the effective number of examples, in [0, 1).",
        within("[0, 1)"),
    ),
}
"""Config fields of this method."""


def class_weights(parts: Parts) -> np.ndarray:
    """Class-balanced weights [C] float64, with the config's beta."""
    beta = parts.config.loss.class_balanced_beta
    return class_balanced_weights(parts.data.biased.class_counts, beta=beta, counted=True)


def objective_by_class(parts: Parts, loss: losses.LossFn = losses.cross_entropy) -> ObjectiveFn:
    """Makes a classification objective in which each class is its own meta-class.

    Args:
        parts: the pieces of the run.
        loss: (logits [n, C], labels) -> [n].
    """
    counts = parts.data.biased.class_counts.astype(np.float64)
    classes = MetaClasses(centers=counts, of_class=np.arange(parts.num_classes, dtype=np.int32))
    return objectives.classification_objective(parts.model.apply, classes, loss)


def class_weighted_step(parts: Parts, loss: losses.LossFn) -> steps.BatchStep:
    """Makes a step with class-balanced weights, divided by their sum to keep the step size.

    Args:
        parts: the pieces of the run.
        loss: (logits [n, C], labels) -> [n].
    """
    weights = class_weights(parts)

    def weight_fn(weight_params, losses, label):
        del weight_params
        return for_labels(jnp.asarray(weights, losses.dtype), label)

    return steps.weighted(weighted_step(parts, objective_by_class(parts, loss), weight_fn=weight_fn))


def build(parts: Parts) -> Method:
    """Builds the warm-up, then weighted cross-entropy."""
    return after_warmup(parts, class_weighted_step(parts, losses.cross_entropy))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if all classes would have the same weight."""
    more_than_nothing(config, "loss.class_balanced_beta")


SPEC = Spec("class_balanced", build, check, fields=FIELDS)
