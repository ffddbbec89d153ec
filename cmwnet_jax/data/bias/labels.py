"""The labels that training is given, and the truth about them."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.sources import check_labels
from cmwnet_jax.errors import UsageError

Seed = int | list[int] | np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class BiasedLabels:
    """The examples that are kept, with the labels that training is given and the true ones.

    Attributes:
        ids: [N] int64, ascending rows of the data set's training split.
        given: [N] int32, the labels that training sees.
        true: [N] int32, the labels before any noise; -1 where the image shown is another data
            set's, which belongs to none of the classes, so that no label is right there.
        num_classes: C.
        foreign: [N] int64, the row of `foreign_dataset`'s training split whose image is shown
            instead of the example's own, -1 where its own is; None where all images are their own.
        foreign_dataset: name of that data set, empty where there is none.
        candidates: [N, C] bool, partial labels: the true one among them; None where labels are single.
        truth_known: False for data sets that come with labels nobody has checked; `true` is then
            what the data set says, and whatever is derived from it is about added noise only.
    """

    ids: np.ndarray
    given: np.ndarray
    true: np.ndarray
    num_classes: int
    foreign: np.ndarray | None = None
    foreign_dataset: str = ""
    truth_known: bool = True
    candidates: np.ndarray | None = None

    @classmethod
    def clean(cls, labels: ArrayLike, num_classes: int, truth_known: bool = True) -> "BiasedLabels":
        """No bias yet: every example, every given label true.

        Args:
            labels: [N] int in [0, C).
            num_classes: C.
            truth_known: False where the labels are themselves of unknown quality (web data).

        Raises:
            UsageError: a label is outside of the classes.
        """
        labels = np.asarray(labels)
        check_labels(labels, num_classes)
        labels = labels.astype(np.int32)
        return cls(np.arange(len(labels)), labels, labels, num_classes, truth_known=truth_known)

    @property
    def class_counts(self) -> np.ndarray:
        """[C] int64, examples by given label; what the meta-classes are made from (Q8)."""
        return np.bincount(self.given, minlength=self.num_classes)

    @property
    def is_foreign(self) -> np.ndarray:
        """[N] bool, where another data set's image is shown."""
        return np.zeros(len(self.ids), bool) if self.foreign is None else self.foreign >= 0

    @property
    def is_wrong(self) -> np.ndarray:
        """[N] bool, where the given label is not the true one; true of every foreign image."""
        return self.given != self.true

    @property
    def wrong_rate(self) -> float:
        """The *true* share of wrong labels, in [0, 1]; not what a noise's name says (Q22, Q23).

        NaN where the truth is not known.
        """
        if not self.truth_known:
            return float("nan")
        return float(np.mean(self.is_wrong)) if len(self.given) else 0.0

    @property
    def transition_matrix(self) -> np.ndarray:
        """[C, C] float64, P(given = column | true = row) as it came out.

        A class without examples has a row of zeros. Foreign images have no true class and are
        left out.
        """
        own = self.true >= 0
        counts = np.zeros((self.num_classes, self.num_classes))
        np.add.at(counts, (self.true[own], self.given[own]), 1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def take(self, rows: np.ndarray) -> "BiasedLabels":
        """The examples at these rows (not ids), in ascending order."""
        rows = np.sort(rows)
        arrays = ("ids", "given", "true", "foreign", "candidates")
        kept = {name: getattr(self, name) for name in arrays}
        kept = {name: None if values is None else values[rows] for name, values in kept.items()}
        return dataclasses.replace(self, **kept)

    def relabel(self, given: np.ndarray) -> "BiasedLabels":
        """The same examples with other given labels.

        Args:
            given: [N] int in [0, C).

        Raises:
            UsageError: the labels are candidate sets, which noise on one label would contradict.
        """
        if self.candidates is not None:
            raise UsageError(
                "the labels are candidate sets, expected single ones: put no noise after partial labels"
            )
        return dataclasses.replace(self, given=given.astype(np.int32))


def check_rate(field: str, rate: float, what: str = "noise rate") -> None:
    """Raises a UsageError where a rate is not in [0, 1].

    Args:
        field: the bias, for the error.
        rate: the rate.
        what: what the error calls it.
    """
    if not 0 <= rate <= 1:
        raise UsageError(f"{field}: {what} is {rate:g}, expected a number in [0, 1] (in a name, 0 to 100)")


def exact_count(share: float, size: int) -> int:
    """floor(share * size), not one less where the product is a whole number but for rounding."""
    return int(np.floor(share * size + 1e-9))


def rows_by_id(field: str, values: np.ndarray, labels: BiasedLabels) -> np.ndarray:
    """The rows of an array over the whole training split that belong to these examples.

    Args:
        field: what the error calls the array.
        values: [training split, ...].
        labels: the examples, whose ids are rows of `values`.

    Returns:
        [N, ...].

    Raises:
        UsageError: the array has no row for some example.
    """
    needed = int(labels.ids.max(initial=-1)) + 1
    if len(values) < needed:
        raise UsageError(
            f"{field}: {len(values)} rows, expected one for each example of the whole training split "
            f"(ids go up to {needed - 1}), in its order"
        )
    return values[labels.ids]


def probabilities_by_id(field: str, values: ArrayLike, labels: BiasedLabels) -> np.ndarray:
    """As `rows_by_id`, of class probabilities.

    Args:
        field: what the error calls the array.
        values: [training split, C] float.
        labels: the examples.

    Returns:
        [N, C] float64, a copy.

    Raises:
        UsageError: another shape, or a row of these examples is no distribution.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != labels.num_classes or labels.num_classes < 2:
        raise UsageError(
            f"{field}: shape {values.shape}, expected [examples of the training split, "
            f"{labels.num_classes} classes], and at least 2 of these"
        )
    values = rows_by_id(field, values, labels).astype(np.float64)
    # NaN fails both comparisons.
    bad = ~(np.all(values >= 0, axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3))
    if bad.any():
        row = int(labels.ids[np.flatnonzero(bad)[0]])
        raise UsageError(
            f"{field}: {bad.sum()} rows are not distributions, first row {row}: expected probabilities "
            f"that sum to one (softmax of the logits, not the logits)"
        )
    return values
