"""What the classifier makes of each example, in evaluation mode, and its numbers over the test split."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmwnet_jax.losses import cross_entropy
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.train import scores
from cmwnet_jax.types import PyTree


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


def make_measure(model: nn.Module) -> Callable[..., Measured]:
    """(params, model_state, batch) -> `Measured`, each array [n]."""

    def measure(params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]) -> Measured:
        logits = model.apply({"params": params, **model_state}, batch["image"], train=False)
        return Measured(
            losses=cross_entropy(logits, batch["label"]),
            predictions=jnp.argmax(logits, axis=-1).astype(jnp.int32),
            confidence=jnp.max(jax.nn.softmax(logits), axis=-1),
            ranks=_ranks(logits, batch["label"]),
        )

    return measure


def _ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the label's; equal logits in the order of the classes, as argmax has it."""
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)[None]
    # Which do *not* come before, negated: no comparison with NaN is true, so that NaN is last and not first.
    not_before = (logits < of_label) | ((logits == of_label) & (classes >= labels[:, None]))
    return jnp.sum(~not_before, axis=-1).astype(jnp.int32)


def split_metrics(
    measured: Measured, labels: np.ndarray, class_counts: np.ndarray, meta_classes: MetaClasses
) -> dict[str, float | list[float | None] | None]:
    """An epoch's numbers over the whole test split.

    Args:
        measured: what the classifier makes of it, [N] each.
        labels: [N] int, its true classes.
        class_counts: [C] int, training examples by given label.
        meta_classes: of the training set.

    Returns:
        `test_loss`, `test_accuracy_percent`, `test_top5_percent` (where there are more than 10 classes),
        `test_ece` in [0, 1], and means over the classes of each meta-class, [K], and of those with many,
        medium and few training examples; None for a group without classes.
    """
    count = len(class_counts)
    by_class = scores.class_accuracy_percent(scores.confusion_matrix(labels, measured.predictions, count))
    groups = (meta_classes.of_class == k for k in range(meta_classes.num_meta_classes))
    is_right = measured.predictions == labels
    return {
        "test_loss": float(np.mean(measured.losses)),
        "test_accuracy_percent": float(100 * np.mean(is_right)),
        **({"test_top5_percent": scores.top_k_percent(measured.ranks, 5)} if count > 10 else {}),
        "test_ece": scores.expected_calibration_error(measured.confidence, is_right),
        "test_meta_class_accuracy_percent": [scores.group_accuracy_percent(by_class, g) for g in groups],
        **{
            f"test_{name}_accuracy_percent": scores.group_accuracy_percent(by_class, members)
            for name, members in scores.shot_groups(class_counts).items()
        },
    }


def evaluation_arrays(measured: Measured, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """What evaluation.npz holds: `Measured` and `labels`, [N] each, and `confusion` [C, C].

    Args:
        measured: what the classifier makes of the test split.
        labels: [N] int, its true classes.
        num_classes: C.
    """
    confusion = scores.confusion_matrix(labels, measured.predictions, num_classes)
    return {**measured._asdict(), "labels": labels, "confusion": confusion}
