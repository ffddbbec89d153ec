"""Evaluates a classifier on examples, in evaluation mode: the `measure` of a method."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.types import PyTree

Measure = Callable[[Mapping[str, PyTree], dict[str, jax.Array]], NamedTuple]
"""(variables, batch of `image`, `label` and `row`) -> arrays [n]; pure.

The result of a custom measure must also have the fields of `Measured`.
"""


class Measured(NamedTuple):
    """A classifier's results on n examples.

    Attributes:
        losses: [n] float32, cross-entropy with the label.
        predictions: [n] int32, the class of the highest logit; the first one in case of a tie.
        confidence: [n] float32, the softmax probability of that class.
        ranks: [n] int32, the number of classes ranked before the label's: 0 if the prediction is right, C if
            the logits are NaN.
        certainty: [n] float32, by which a selective classifier accepts predictions, the highest first. Plain
            classifiers: log(p / (1 - p)) of the confidence p, i.e. softmax response (Geifman and El-Yaniv
            2017), of which float32 rounds many p to 1.
    """

    losses: jax.Array | np.ndarray
    predictions: jax.Array | np.ndarray
    confidence: jax.Array | np.ndarray
    ranks: jax.Array | np.ndarray
    certainty: jax.Array | np.ndarray


def measure_classifier(model: nn.Module) -> Measure:
    """Makes the function that computes `Measured` for one classifier.

    Args:
        model: (images, train) -> logits [n, C].
    """

    def measure(variables: Mapping[str, PyTree], batch: dict[str, jax.Array]) -> Measured:
        logits = model.apply(variables, batch["image"], train=False)
        return measured(logits, batch["label"])

    return measure


def measured(logits: jax.Array, labels: jax.Array) -> Measured:
    """Computes `Measured` from a classifier's logits.

    Args:
        logits: [n, C] float.
        labels: [n] int32.
    """
    return Measured(
        losses=cross_entropy(logits, labels),
        predictions=jnp.argmax(logits, axis=-1).astype(jnp.int32),
        confidence=jnp.max(jax.nn.softmax(logits), axis=-1),
        ranks=_ranks(logits, labels),
        certainty=_log_odds(logits),
    )


def _log_odds(logits: jax.Array) -> jax.Array:
    """log(p / (1 - p)) of the highest softmax probability p: [n, C] to [n], in the logits' precision."""
    highest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(highest, -jnp.inf, logits), axis=-1)
    return jnp.max(logits, axis=-1) - others


def _ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the classes ranked before the label's. Ties are ranked in class order, as in argmax."""
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)[None]
    # Negated, because every comparison with NaN is false: this way NaN ranks last, not first.
    not_before = (logits < of_label) | ((logits == of_label) & (classes >= labels[:, None]))
    return jnp.sum(~not_before, axis=-1).astype(jnp.int32)
