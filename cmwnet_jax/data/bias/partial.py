"""Partial labels: a set of candidates for each example, the right one among them (Sec. 7.1, E.1)."""

import numpy as np

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed, check_rate
from cmwnet_jax.errors import UsageError


def binomial_candidates(labels: BiasedLabels, q: float, seed: Seed) -> np.ndarray:
    """Each other class is a candidate with probability q; an example with none gets one at random.

    E.1 draws the c - 1 other classes and flips one where none came up; the authors' code draws all
    c classes, forces the label and adds random classes until there are two candidates (Q44). Both
    are this law: the draw of the own class changes nothing, and the first added class that counts
    is uniform over the others.

    Args:
        labels: the labels so far; the *given* label, true where no noise was put on, is forced in.
        q: probability in [0, 1].
        seed: a seed or generator.

    Returns:
        [N, C] bool, at least two candidates an example.

    Raises:
        UsageError: q is outside of [0, 1], or there are fewer than two classes.
    """
    _check(q, labels.num_classes)
    rng = np.random.default_rng(seed)
    size = len(labels.given)
    candidates = rng.random((size, labels.num_classes)) < q
    candidates[np.arange(size), labels.given] = True
    alone = np.flatnonzero(candidates.sum(axis=1) == 1)
    # The label plus 1 to C - 1, modulo C: uniform over the other classes.
    step = rng.integers(1, labels.num_classes, size=len(alone))
    candidates[alone, (labels.given[alone] + step) % labels.num_classes] = True
    return candidates


def pair_candidates(labels: BiasedLabels, q: float, seed: Seed) -> np.ndarray:
    """The next class (the first after the last) is a candidate with probability q, no other one is.

    PRODEN's second strategy, "pair flipping" (E.1's reference [94]); an example may keep its label
    as the only candidate.

    Args:
        labels: the labels so far; the given label is forced in.
        q: probability in [0, 1].
        seed: a seed or generator.

    Returns:
        [N, C] bool, one or two candidates an example.

    Raises:
        UsageError: q is outside of [0, 1], or there are fewer than two classes.
    """
    _check(q, labels.num_classes)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(labels.given))
    candidates = np.zeros((len(rows), labels.num_classes), bool)
    candidates[rows, labels.given] = True
    candidates[rows, (labels.given + 1) % labels.num_classes] = rng.random(len(rows)) < q
    return candidates


def _check(q: float, num_classes: int) -> None:
    check_rate("partial labels", q, "q")
    if num_classes < 2:
        raise UsageError(
            f"partial labels: {num_classes} class, expected at least 2, so that there is another one"
        )
