"""Label noise that depends at most on the class: symmetric, uniform, asymmetric, any transition matrix."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed, check_rate, exact_count
from cmwnet_jax.data.sources import check_labels
from cmwnet_jax.errors import UsageError


def symmetric_noise(labels: BiasedLabels, rate: float, seed: Seed) -> BiasedLabels:
    """Redraws exactly `floor(rate * N)` labels from *all* classes (Sec. 4.2, Q23).

    The example's own class may be drawn, so about `rate * (1 - 1/C)` of the labels become wrong.

    Args:
        labels: the current labels.
        rate: share of redrawn labels, in [0, 1].
        seed: a seed or generator.

    Raises:
        UsageError: the rate is not in [0, 1].
    """
    check_rate("symmetric", rate)
    rng = np.random.default_rng(seed)
    redrawn = rng.permutation(len(labels.given))[: exact_count(rate, len(labels.given))]
    given = labels.given.copy()
    given[redrawn] = rng.integers(labels.num_classes, size=len(redrawn))
    return labels.relabel(given)


def uniform_noise(labels: BiasedLabels, rate: float, seed: Seed) -> BiasedLabels:
    """Replaces each label, with probability `rate`, by one of the C - 1 *other* classes, drawn uniformly.

    This is the other convention of symmetric noise. It has a name of its own so that tables of the two are not
    mixed: here `rate` is the expected share of wrong labels, while `symmetric_noise` may draw the example's own
    class. The hybrids of Table 4 add this noise to feature-dependent noise (Q24).

    Args:
        labels: the current labels.
        rate: probability of a wrong label, in [0, 1]; independent for each example.
        seed: a seed or generator.

    Raises:
        UsageError: the rate is not in [0, 1], or there is only one class.
    """
    check_rate("uniform", rate)
    num_classes = labels.num_classes
    if num_classes < 2:
        raise UsageError(f"uniform: {num_classes} class, expected at least 2, so that there is another one")
    matrix = np.full((num_classes, num_classes), rate / (num_classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return transition_noise(labels, matrix, seed)


def asymmetric_noise(labels: BiasedLabels, rate: float, flips: Mapping[int, int], seed: Seed) -> BiasedLabels:
    """In each source class, gives exactly `floor(rate * N_c)` examples a similar class's label (Sec. 4.2).

    Args:
        labels: the current labels; all flips start from them, not from the result of another flip.
        rate: share of each source class that is flipped, in [0, 1]; the overall rate is lower (Q22).
        flips: source class -> target class.
        seed: a seed or generator.

    Raises:
        UsageError: the rate is not in [0, 1], or a flip names a class that does not exist.
    """
    check_rate("asymmetric", rate)
    _check_flips(flips, labels.num_classes)
    rng = np.random.default_rng(seed)
    given = labels.given.copy()
    for source, target in flips.items():
        members = np.flatnonzero(labels.given == source)
        given[rng.permutation(members)[: exact_count(rate, len(members))]] = target
    return labels.relabel(given)


def flip_matrix(rate: float, flips: Mapping[int, int], num_classes: int) -> np.ndarray:
    """Transition matrix of flips that each happen with probability `rate`.

    Args:
        rate: in [0, 1].
        flips: source class -> target class.
        num_classes: C.

    Returns:
        [C, C] float64, P(new = column | old = row).

    Raises:
        UsageError: the rate is not in [0, 1], or a flip names a class that does not exist.
    """
    check_rate("asymmetric", rate)
    _check_flips(flips, num_classes)
    matrix = np.eye(num_classes)
    for source, target in flips.items():
        matrix[source, source] -= rate
        matrix[source, target] += rate
    return matrix


def transition_noise(labels: BiasedLabels, matrix: ArrayLike, seed: Seed) -> BiasedLabels:
    """Redraws each label independently from its class's row of a transition matrix.

    Args:
        labels: the current labels.
        matrix: [C, C] float, P(new = column | old = row); rows sum to one.
        seed: a seed or generator.

    Raises:
        UsageError: the matrix has another shape, or a row is not a distribution.
    """
    matrix = np.asarray(matrix, np.float64)
    shape = (labels.num_classes, labels.num_classes)
    if matrix.shape != shape or not (np.all(matrix >= 0) and np.allclose(matrix.sum(axis=-1), 1, atol=1e-6)):
        raise UsageError(
            f"transition_noise: matrix of shape {matrix.shape}, expected {shape}, without negative entries, "
            f"each row summing to one"
        )
    rng = np.random.default_rng(seed)
    upper = np.cumsum(matrix, axis=1)
    # The last column with a positive probability ends at exactly one. Otherwise a draw above a sum that was
    # rounded down would fall outside of the classes.
    upper[upper >= upper[:, -1:]] = 1
    drawn = rng.random(len(labels.given))
    given = labels.given.copy()
    for c in range(labels.num_classes):
        members = labels.given == c
        given[members] = np.searchsorted(upper[c], drawn[members], side="right")
    return labels.relabel(given)


def _check_flips(flips: Mapping[int, int], num_classes: int) -> None:
    classes = np.array([c for flip in flips.items() for c in flip], dtype=np.int64)
    check_labels(classes, num_classes, "asymmetric: flips")
