"""Every way of biasing labels: pure seeded functions from labels to labels that know the truth.

Each function takes a `BiasedLabels` and returns a new one, so that biases compose: thin the
classes first, then flip. `apply` does it by name.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

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
        true: [N] int32, the labels before any noise.
        num_classes: C.
    """

    ids: np.ndarray
    given: np.ndarray
    true: np.ndarray
    num_classes: int

    @classmethod
    def clean(cls, labels: ArrayLike, num_classes: int) -> "BiasedLabels":
        """No bias yet: every example, every given label true.

        Args:
            labels: [N] int in [0, C).
            num_classes: C.

        Raises:
            UsageError: a label is outside of the classes.
        """
        labels = np.asarray(labels)
        check_labels(labels, num_classes)
        labels = labels.astype(np.int32)
        return cls(np.arange(len(labels)), labels, labels, num_classes)

    @property
    def class_counts(self) -> np.ndarray:
        """[C] int64, examples by given label; what the meta-classes are made from (Q8)."""
        return np.bincount(self.given, minlength=self.num_classes)

    @property
    def is_wrong(self) -> np.ndarray:
        """[N] bool, where the given label is not the true one."""
        return self.given != self.true

    @property
    def wrong_rate(self) -> float:
        """The *true* share of wrong labels, in [0, 1]; not what a noise's name says (Q22, Q23)."""
        return float(np.mean(self.is_wrong)) if len(self.given) else 0.0

    @property
    def transition_matrix(self) -> np.ndarray:
        """[C, C] float64, P(given = column | true = row) as it came out; a class without examples: zeros."""
        counts = np.zeros((self.num_classes, self.num_classes))
        np.add.at(counts, (self.true, self.given), 1)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def take(self, rows: np.ndarray) -> "BiasedLabels":
        """The examples at these rows (not ids), in ascending order."""
        rows = np.sort(rows)
        return dataclasses.replace(self, ids=self.ids[rows], given=self.given[rows], true=self.true[rows])


def long_tail(labels: BiasedLabels, factor: float, seed: Seed) -> BiasedLabels:
    """Exponential long tail: class c keeps `floor(N_c * factor**(-c / (C - 1)))` (Sec. 4.1, Q29).

    Args:
        labels: the labels so far; classes are thinned by given label, at random.
        factor: largest over smallest class for a balanced set, at least 1.
        seed: a seed or generator.

    Raises:
        UsageError: the factor is below 1, or so large that a class would lose its last example.
    """
    if not factor >= 1:
        raise UsageError(f"long_tail: imbalance factor is {factor:g}, expected at least 1 (1 keeps everything)")
    rng = np.random.default_rng(seed)
    counts = labels.class_counts
    power = -np.arange(labels.num_classes) / max(labels.num_classes - 1, 1)
    kept = np.floor(counts * float(factor) ** power + 1e-9).astype(int)
    emptied = np.flatnonzero((kept == 0) & (counts > 0))
    if len(emptied):
        c = emptied[0]
        raise UsageError(
            f"long_tail: imbalance factor {factor:g} leaves class {c} none of its {counts[c]} examples: "
            f"choose a smaller one"
        )
    rows = [rng.permutation(np.flatnonzero(labels.given == c))[: kept[c]] for c in range(labels.num_classes)]
    return labels.take(np.concatenate(rows))


def symmetric_noise(labels: BiasedLabels, rate: float, seed: Seed) -> BiasedLabels:
    """Exactly `floor(rate * N)` examples get a label drawn from *all* classes (Sec. 4.2, Q23).

    The own class may be drawn, so that about `rate * (1 - 1/C)` of the labels end up wrong.

    Args:
        labels: the labels so far.
        rate: share of redrawn examples, in [0, 1].
        seed: a seed or generator.

    Raises:
        UsageError: the rate is outside of [0, 1].
    """
    _check_rate("symmetric", rate)
    rng = np.random.default_rng(seed)
    redrawn = rng.permutation(len(labels.given))[: _count(rate, len(labels.given))]
    given = labels.given.copy()
    given[redrawn] = rng.integers(labels.num_classes, size=len(redrawn))
    return dataclasses.replace(labels, given=given)


def asymmetric_noise(labels: BiasedLabels, rate: float, flips: Mapping[int, int], seed: Seed) -> BiasedLabels:
    """In each source class, exactly `floor(rate * N_c)` examples get a similar class's label (Sec. 4.2).

    Args:
        labels: the labels so far; all flips start from them, none from another flip's result.
        rate: share of each source class that is flipped, in [0, 1]; the overall rate is lower (Q22).
        flips: source class -> target class.
        seed: a seed or generator.

    Raises:
        UsageError: the rate is outside of [0, 1], or a flip names a class that does not exist.
    """
    _check_rate("asymmetric", rate)
    check_labels(np.array([c for flip in flips.items() for c in flip]), labels.num_classes, "asymmetric: flips")
    rng = np.random.default_rng(seed)
    given = labels.given.copy()
    for source, target in flips.items():
        members = np.flatnonzero(labels.given == source)
        given[rng.permutation(members)[: _count(rate, len(members))]] = target
    return dataclasses.replace(labels, given=given)


ASYMMETRIC_FLIPS: Mapping[str, Mapping[int, int]] = {
    # Four rarer digits (under `long_tail`, which thins by class index) and the more common digit
    # that each resembles: what an annotator does who has seen far more of the common one.
    "digits": {6: 5, 7: 1, 8: 3, 9: 4},
}


def apply(name: str, labels: BiasedLabels, dataset: str, seed: int) -> BiasedLabels:
    """The bias that a name says, e.g. `long_tail_100`, `symmetric_40`, `long_tail_10+asymmetric_40`.

    Rates are in per cent. Parts that are joined by `+` apply from left to right, each with its own
    stream of the seed; `none` and the empty name are no bias.

    Args:
        name: the bias.
        labels: what to bias, usually `BiasedLabels.clean(...)`.
        dataset: the data set's name, which chooses the asymmetric map.
        seed: seed of the whole bias.

    Raises:
        UsageError: the name is not understood or a number in it is out of range.
    """
    parts = [] if name in ("", "none") else name.split("+")
    for position, part in enumerate(parts):
        kind, amount = _parse(part)
        labels = kind(labels, amount, dataset, [seed, position])
    return labels


def _asymmetric_by_dataset(labels: BiasedLabels, percent: float, dataset: str, seed: Seed) -> BiasedLabels:
    if dataset not in ASYMMETRIC_FLIPS:
        raise UsageError(
            f"bias is asymmetric_{percent:g}, but {dataset!r} has no map of similar classes: use one of "
            f"{', '.join(ASYMMETRIC_FLIPS)}, or asymmetric_noise with flips of your own"
        )
    return asymmetric_noise(labels, percent / 100, ASYMMETRIC_FLIPS[dataset], seed)


_KINDS: Mapping[str, Callable[[BiasedLabels, float, str, Seed], BiasedLabels]] = {
    "long_tail": lambda labels, factor, dataset, seed: long_tail(labels, factor, seed),
    "symmetric": lambda labels, percent, dataset, seed: symmetric_noise(labels, percent / 100, seed),
    "asymmetric": _asymmetric_by_dataset,
}


def _parse(part: str) -> tuple[Callable, float]:
    matched = re.fullmatch(r"([a-z_0-9]+)_(-?[0-9.]+)", part)
    if not matched or matched[1] not in _KINDS:
        raise UsageError(
            f"bias is {part!r}, expected none or KIND_NUMBER with KIND one of {', '.join(_KINDS)}, "
            f"joined by '+', e.g. long_tail_100 or long_tail_10+asymmetric_40 (rates in per cent)"
        )
    return _KINDS[matched[1]], float(matched[2])


def _check_rate(field: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise UsageError(f"{field}: noise rate is {rate:g}, expected a number in [0, 1] (in a name, 0 to 100)")


def _count(share: float, size: int) -> int:
    """floor(share * size), not one less where the product is a whole number but for rounding."""
    return int(np.floor(share * size + 1e-9))
