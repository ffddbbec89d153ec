"""What a classifier makes of examples, in evaluation mode: a method's `measure`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.types import PyTree

Measure = Callable[[Mapping[str, PyTree], dict[str, jax.Array]], NamedTuple]
"""(variables, batch of `image`, `label` and `row`) -> arrays [n]; pure. A method's own has these four too."""


class Measured(NamedTuple):
    """What a classifier makes of n examples.

    Attributes:
        losses: [n] float32, cross-entropy with the label.
        predictions: [n] int32, the class of the highest logit, the first of several.
        confidence: [n] float32, the softmax probability of that class.
        ranks: [n] int32, how many classes come before the label's: 0 where the prediction is right; C
            where the logits are NaN.
    """

    losses: jax.Array | np.ndarray
    predictions: jax.Array | np.ndarray
    confidence: jax.Array | np.ndarray
    ranks: jax.Array | np.ndarray


def measure_classifier(model: nn.Module) -> Measure:
    """`Measured` of one classifier.

    Args:
        model: (images, train) -> logits [n, C].
    """

    def measure(variables: Mapping[str, PyTree], batch: dict[str, jax.Array]) -> Measured:
        logits = model.apply(variables, batch["image"], train=False)
        return measured(logits, batch["label"])

    return measure


def measured(logits: jax.Array, labels: jax.Array) -> Measured:
    """`Measured` of a classifier's logits.

    Args:
        logits: [n, C] float.
        labels: [n] int32.
    """
    return Measured(
        losses=cross_entropy(logits, labels),
        predictions=jnp.argmax(logits, axis=-1).astype(jnp.int32),
        confidence=jnp.max(jax.nn.softmax(logits), axis=-1),
        ranks=_ranks(logits, labels),
    )


def _ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the label's; equal logits in the order of the classes, as argmax has it."""
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)[None]
    # Which do *not* come before, negated: no comparison with NaN is true, so that NaN is last and not first.
    not_before = (logits < of_label) | ((logits == of_label) & (classes >= labels[:, None]))
    return jnp.sum(~not_before, axis=-1).astype(jnp.int32)
