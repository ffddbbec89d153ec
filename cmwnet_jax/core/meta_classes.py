"""Meta-classes: K-means over class sizes, in ascending order (Sec. 3.3, 3.4.1)."""

import dataclasses
import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans

from cmwnet_jax.core.class_balance import checked_counts
from cmwnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class MetaClasses:
    """Assignment of classes to K meta-classes by their size.

    Attributes:
        centers: [K] float64, the cluster centres mu_1 <= ... <= mu_K, in examples per class.
        of_class: [C] int32, the index in [0, K) of each class's nearest centre.
    """

    centers: np.ndarray
    of_class: np.ndarray

    @property
    def num_meta_classes(self) -> int:
        """K, the number of meta-classes."""
        return len(self.centers)

    @classmethod
    def fit(cls, class_counts: ArrayLike, num_meta_classes: int = 3, seed: int = 0) -> "MetaClasses":
        """Clusters the class sizes by K-means; sorts centres and renumbers classes to match (Q4).

        If only D < K sizes are distinct (a balanced set has D = 1, two classes have at most 2), K groups cannot
        be told apart. A warning says so, the classes use meta-classes 0 to D - 1, and the other centres repeat
        the largest and have no classes (Q8). Classes without examples are left out of K-means and get
        meta-class 0, that of the smallest classes.

        Args:
            class_counts: [C] non-negative integers, examples per *given* label.
            num_meta_classes: K, at least 1; a learned weight net's, whatever C is.
            seed: seed of the ten starts of K-means.

        Raises:
            UsageError: K is below 1, the counts are out of range or all 0, or they are labels.

        Example:
            >>> MetaClasses.fit([5000, 4800, 40, 900, 50], num_meta_classes=3).of_class
            array([2, 2, 0, 1, 0], dtype=int32)
        """
        found = cls.of_counts(checked_counts(class_counts), num_meta_classes, seed)
        found.warn_of_unused(stacklevel=3)
        return found

    @classmethod
    def of_counts(cls, class_counts: np.ndarray, num_meta_classes: int, seed: int = 0) -> "MetaClasses":
        """`fit` without its warning and its check for labels, which takes very small classes for labels.

        Args:
            class_counts: [C] numbers that were counted, e.g. by `np.bincount`.
            num_meta_classes, seed: as in `fit`.

        Raises:
            UsageError: K is below 1, or all counts are 0.
        """
        counts = np.asarray(class_counts, np.float64)
        is_whole = isinstance(num_meta_classes, int | np.integer) and not isinstance(num_meta_classes, bool)
        if not is_whole or num_meta_classes < 1:
            raise UsageError(
                f"num_meta_classes is {num_meta_classes!r}, expected a whole number of at least 1: the paper "
                f"uses 3"
            )
        present = counts > 0
        if not present.any():
            raise UsageError("class_counts are all 0, expected examples in at least one class")
        clusters = min(num_meta_classes, len(np.unique(counts[present])))
        fitted = KMeans(clusters, n_init=10, random_state=seed).fit(counts[present, None])
        order = np.argsort(fitted.cluster_centers_[:, 0])
        rank = np.empty(clusters, np.int32)
        rank[order] = np.arange(clusters, dtype=np.int32)
        centers = np.pad(fitted.cluster_centers_[order, 0], (0, num_meta_classes - clusters), "edge")
        of_class = np.zeros(len(counts), np.int32)
        of_class[present] = rank[fitted.labels_]
        return cls(centers=centers, of_class=of_class)

    @property
    def is_used(self) -> np.ndarray:
        """[K] bool, whether a meta-class has classes."""
        return np.isin(np.arange(self.num_meta_classes), self.of_class)

    def warn_of_unused(self, stacklevel: int = 2) -> None:
        """Warns if a meta-class has no classes, because the class sizes take fewer than K values.

        Args:
            stacklevel: as `warnings.warn`'s; 2 is the caller.
        """
        used = int(self.is_used.sum())
        if used < self.num_meta_classes:
            warnings.warn(
                f"the class sizes take only {used} distinct value(s), fewer than num_meta_classes = "
                f"{self.num_meta_classes}: classes share meta-classes 0 to {used - 1}, and the weight net's "
                f"other heads see no example",
                stacklevel=stacklevel,
            )
