"""Evaluates a classifier on examples, in evaluation mode: the `measure` of a method."""

import dataclasses
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


Predict = Callable[[Mapping[str, PyTree], dict[str, jax.Array]], jax.Array]
"""(variables, batch as for `Measure`) -> class probabilities [n, C] float32; pure."""


def predict_classes(model: nn.Module, logits_of: Callable | None = None) -> Predict:
    """Makes the function that computes class probabilities: the softmax of the logits.

    Unlike a closure, it can be pickled, and equal models have equal functions.

    Args:
        model: (images, train) -> outputs.
        logits_of: outputs -> logits [n, C]; None: the outputs are the logits.
    """
    return _SoftmaxOf(model, logits_of)


@dataclasses.dataclass(frozen=True)
class _SoftmaxOf:
    model: nn.Module
    logits_of: Callable | None

    def __call__(self, variables: Mapping[str, PyTree], batch: dict[str, jax.Array]) -> jax.Array:
        outputs = self.model.apply(variables, batch["image"], train=False)
        logits = outputs if self.logits_of is None else self.logits_of(outputs)
        return jax.nn.softmax(logits.astype(jnp.float32))


class BesideGiven(NamedTuple):
    """What class probabilities say of the given labels of n examples.

    Attributes:
        given_probability: [n] float32, the probability of the given class.
        other: [n] int32, the most likely class other than the given one; the first one in case of a tie, and
            so where all probabilities are 0.
        other_probability: [n] float32, its probability.
    """

    given_probability: jax.Array | np.ndarray
    other: jax.Array | np.ndarray
    other_probability: jax.Array | np.ndarray


def beside_given(probabilities: jax.Array, labels: jax.Array) -> BesideGiven:
    """Compares class probabilities with the given labels.

    Args:
        probabilities: [n, C] float, C at least 2.
        labels: [n] int32, the given classes.
    """
    is_given = jnp.arange(probabilities.shape[-1])[None] == labels[:, None]
    others = jnp.where(is_given, -1, probabilities)
    return BesideGiven(
        jnp.sum(jnp.where(is_given, probabilities, 0), axis=-1).astype(jnp.float32),
        jnp.argmax(others, axis=-1).astype(jnp.int32),
        jnp.max(others, axis=-1).astype(jnp.float32),
    )


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
