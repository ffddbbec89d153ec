"""`BiasedLabels`: the labels that training sees, together with the true ones."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.sources import check_labels
from cmwnet_jax.errors import UsageError

Seed = int | list[int] | np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class BiasedLabels:
    """The kept examples, with the labels that training sees and the true labels.

    Attributes:
        ids: [N] int64, ascending rows of the data set's training split.
        given: [N] int32, the labels that training sees; -1 for an example without a label.
        true: [N] int32, the labels before any noise; -1 for an image from another data set, which belongs to
            none of the classes, so that no label is right.
        num_classes: C.
        foreign: [N] int64, the row of `foreign_dataset`'s training split whose image replaces the
            example's own, -1 where the image is its own; None if all images are their own.
        foreign_dataset: name of that data set, empty if there is none.
        candidates: [N, C] bool, sets of candidate labels that include the true one; None for single labels.
        truth_known: False for data sets whose labels nobody has checked. `true` then holds the data set's
            labels, and everything derived from it describes the added noise only.
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
        """Unbiased labels: all examples, each with its true label.

        Args:
            labels: [N] int in [0, C).
            num_classes: C.
            truth_known: False if the labels themselves are of unknown quality (web data).

        Raises:
            UsageError: a label is not a class.
        """
        labels = np.asarray(labels)
        check_labels(labels, num_classes)
        labels = labels.astype(np.int32)
        return cls(np.arange(len(labels)), labels, labels, num_classes, truth_known=truth_known)

    @property
    def is_labelled(self) -> np.ndarray:
        """[N] bool, whether the example has a given label."""
        return self.given >= 0

    @property
    def class_counts(self) -> np.ndarray:
        """[C] int64, examples per given label; the meta-classes are computed from them (Q8)."""
        return np.bincount(self.given[self.is_labelled], minlength=self.num_classes)

    @property
    def is_foreign(self) -> np.ndarray:
        """[N] bool, whether the image is from another data set."""
        return np.zeros(len(self.ids), bool) if self.foreign is None else self.foreign >= 0

    @property
    def is_wrong(self) -> np.ndarray:
        """[N] bool, whether the given label differs from the true one, as in each foreign image."""
        return self.is_labelled & (self.given != self.true)

    @property
    def wrong_rate(self) -> float:
        """The *true* share of wrong labels, in [0, 1]; it differs from the rate in a noise's name (Q22, Q23).

        Examples without a label do not count. NaN if the truth is not known.
        """
        if not self.truth_known:
            return float("nan")
        return float(np.mean(self.is_wrong[self.is_labelled])) if self.is_labelled.any() else 0.0

    @property
    def transition_matrix(self) -> np.ndarray:
        """[C, C] float64, the observed P(given = column | true = row).

        The row of a class without examples is zero. Foreign images, which have no true class, and examples
        without a label are left out.
        """
        own = (self.true >= 0) & self.is_labelled
        counts = np.zeros((self.num_classes, self.num_classes))
        np.add.at(counts, (self.true[own], self.given[own]), 1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def take(self, rows: np.ndarray) -> "BiasedLabels":
        """Selects these rows (not ids), given in ascending order."""
        rows = np.sort(rows)
        arrays = ("ids", "given", "true", "foreign", "candidates")
        kept = {name: getattr(self, name) for name in arrays}
        kept = {name: None if values is None else values[rows] for name, values in kept.items()}
        return dataclasses.replace(self, **kept)

    def relabel(self, given: np.ndarray) -> "BiasedLabels":
        """Replaces the given labels.

        Args:
            given: [N] int in [0, C).

        Raises:
            UsageError: the labels are candidate sets, which noise on single labels would contradict.
        """
        if self.candidates is not None:
            raise UsageError(
                "the labels are candidate sets, expected single ones: put no noise after partial labels"
            )
        return dataclasses.replace(self, given=given.astype(np.int32))


def check_rate(field: str, rate: float, what: str = "noise rate") -> None:
    """Raises a UsageError if a rate is not in [0, 1].

    Args:
        field: the bias, for the error.
        rate: the rate.
        what: name of the rate in the error.
    """
    if not 0 <= rate <= 1:
        raise UsageError(f"{field}: {what} is {rate:g}, expected a number in [0, 1] (in a name, 0 to 100)")


def exact_count(share: float, size: int) -> int:
    """floor(share * size), computed so that rounding cannot turn a whole number into the next lower one."""
    return int(np.floor(share * size + 1e-9))


def rows_by_id(field: str, values: np.ndarray, labels: BiasedLabels) -> np.ndarray:
    """Selects the rows of these examples from an array over the whole training split.

    Args:
        field: name of the array in the error.
        values: [training split, ...].
        labels: the examples; their ids are rows of `values`.

    Returns:
        [N, ...].

    Raises:
        UsageError: the array is too short.
    """
    needed = int(labels.ids.max(initial=-1)) + 1
    if len(values) < needed:
        raise UsageError(
            f"{field}: {len(values)} rows, expected one for each example of the whole training split "
            f"(ids go up to {needed - 1}), in its order"
        )
    return values[labels.ids]


def probabilities_by_id(field: str, values: ArrayLike, labels: BiasedLabels) -> np.ndarray:
    """As `rows_by_id`, for class probabilities.

    Args:
        field: name of the array in the error.
        values: [training split, C] float.
        labels: the examples.

    Returns:
        [N, C] float64, a copy.

    Raises:
        UsageError: the shape differs, or a row of these examples is not a distribution.
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
