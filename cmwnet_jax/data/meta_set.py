"""Selection of the training examples for the meta loss, and of their labels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.core.meta_examples import lowest_loss as lowest_loss
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.bias import BiasedLabels, Seed
from cmwnet_jax.errors import UsageError


class Rightness(NamedTuple):
    """Number of rightly labelled examples in a meta set.

    Attributes:
        right: how many labels are right.
        known: how many examples have a known truth.
    """

    right: int
    known: int

    @property
    def percent(self) -> float:
        """100 * right / known; NaN if `known` is 0."""
        return 100 * self.right / self.known if self.known else float("nan")


def with_labels(rows: np.ndarray, labels: ArrayLike) -> Selection:
    """Makes a meta set with labels from a table: given labels or pseudo-labels (Sec. 4.2, Q20).

    The authors' code uses the given labels of low-loss examples; the paper also mentions pseudo-labels.
    Examples are selected by given label in both cases.

    Args:
        rows: [M] int, ascending rows of the training examples.
        labels: [N] int given labels or hard pseudo-labels, or [N, C] float soft pseudo-labels.

    Raises:
        UsageError: the table has no label for a row.
    """
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or (len(rows) and np.max(rows) >= len(labels)):
        raise UsageError(
            f"meta set: labels of shape {labels.shape}, expected [N] or [N, C] with a row for each of the "
            f"training examples"
        )
    return Selection(rows=rows, labels=labels[rows])


def balanced(labels: np.ndarray, num_classes: int, per_class: int, seed: Seed) -> np.ndarray:
    """Draws as many examples per class as the smallest class has, but at most `per_class` (B.1, Q28).

    Args:
        labels: [N] int, given labels.
        num_classes: C; empty classes are ignored.
        per_class: the largest number per class, at least 1.
        seed: a seed or generator; use another one in each epoch for a new set.

    Returns:
        Ascending rows, the same number of each class.

    Raises:
        UsageError: there are no examples, or `per_class` is below 1.
    """
    _check_per_class(per_class)
    if not len(labels):
        raise UsageError("meta set: no training examples, expected at least one to choose from")
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=num_classes)
    size = min(per_class, counts[counts > 0].min())
    rows = [rng.permutation(np.flatnonzero(labels == c))[:size] for c in range(num_classes)]
    return np.sort(np.concatenate(rows))


def hold_out(
    labels: BiasedLabels, per_class: int, seed: Seed, field: str = "meta_set.per_class_examples"
) -> tuple[np.ndarray, BiasedLabels]:
    """Holds out a clean and balanced set *before* any bias, so that training never sees it.

    Args:
        labels: clean labels.
        per_class: examples to hold out per class, fewer than the smallest class has.
        seed: a seed or generator.
        field: the config field that sets `per_class`, for messages.

    Returns:
        (ids of the set, ascending; the remaining labels, for training).

    Raises:
        UsageError: `per_class` is below 1 or leaves a class without training examples, or some labels
            are already wrong.
    """
    _check_per_class(per_class)
    if labels.is_wrong.any():
        raise UsageError(
            f"meta set: {labels.is_wrong.sum()} labels are wrong already, expected clean ones: hold the meta "
            f"set out before the bias"
        )
    counts = labels.class_counts
    smallest = int(counts[counts > 0].min(initial=len(labels.ids)))
    if per_class >= smallest:
        raise UsageError(
            f"{field} is {per_class}, expected fewer than the {smallest} examples of the "
            f"smallest class, so that some are left to train on: lower it"
        )
    rows = balanced(labels.true, labels.num_classes, per_class, seed)
    return labels.ids[rows], labels.take(np.setdiff1d(np.arange(len(labels.ids)), rows))


def rightness(labels: BiasedLabels, meta: Selection) -> Rightness:
    """Counts the rightly labelled examples of a meta set; a soft label counts as its most likely class.

    Args:
        labels: the training examples that `meta.rows` index.
        meta: the meta set.
    """
    if not labels.truth_known:
        return Rightness(right=0, known=0)
    hard = meta.labels if meta.labels.ndim == 1 else meta.labels.argmax(axis=1)
    return Rightness(right=int(np.sum(hard == labels.true[meta.rows])), known=len(meta.rows))


def _check_per_class(per_class: int) -> None:
    if per_class < 1:
        raise UsageError(f"meta_set.per_class_examples is {per_class}, expected at least 1")
