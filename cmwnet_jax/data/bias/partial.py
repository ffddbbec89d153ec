"""Partial labels: a set of candidates per example that includes the true one (Sec. 7.1, E.1)."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed, check_rate, probabilities_by_id
from cmwnet_jax.errors import UsageError


def binomial_candidates(labels: BiasedLabels, q: float, seed: Seed) -> np.ndarray:
    """Makes each other class a candidate with probability q; if none is drawn, adds one at random.

    E.1 draws the c - 1 other classes and adds one if none was drawn. The authors' code draws all c classes,
    forces the label in, and adds random classes until there are two candidates (Q44). Both give this
    distribution: drawing the example's own class changes nothing, and the first added class that counts is
    uniform over the others.

    Args:
        labels: the current labels; the *given* label, which is true without earlier noise, is forced in.
        q: probability in [0, 1].
        seed: a seed or generator.

    Returns:
        [N, C] bool, at least two candidates per example.

    Raises:
        UsageError: q is not in [0, 1], or there are fewer than two classes.
    """
    _check(q, labels.num_classes)
    rng = np.random.default_rng(seed)
    size = len(labels.given)
    candidates = rng.random((size, labels.num_classes)) < q
    candidates[np.arange(size), labels.given] = True
    alone = np.flatnonzero(candidates.sum(axis=1) == 1)
    # The label plus 1 to C - 1, modulo C, is uniform over the other classes.
    step = rng.integers(1, labels.num_classes, size=len(alone))
    candidates[alone, (labels.given[alone] + step) % labels.num_classes] = True
    return candidates


def pair_candidates(labels: BiasedLabels, q: float, seed: Seed) -> np.ndarray:
    """Makes the next class (cyclically) a candidate with probability q, and no other class.

    This is PRODEN's second strategy, "pair flipping" (E.1's reference [94]). An example may keep its label as
    the only candidate.

    Args:
        labels: the current labels; the given label is forced in.
        q: probability in [0, 1].
        seed: a seed or generator.

    Returns:
        [N, C] bool, one or two candidates per example.

    Raises:
        UsageError: q is not in [0, 1], or there are fewer than two classes.
    """
    _check(q, labels.num_classes)
    rng = np.random.default_rng(seed)
    rows = np.arange(len(labels.given))
    candidates = np.zeros((len(rows), labels.num_classes), bool)
    candidates[rows, labels.given] = True
    candidates[rows, (labels.given + 1) % labels.num_classes] = rng.random(len(rows)) < q
    return candidates


def with_candidates(labels: BiasedLabels, candidates: ArrayLike, seed: Seed) -> BiasedLabels:
    """Turns labels into candidate sets.

    The given label, which class sizes and meta-classes are computed from, becomes a random candidate. It thus
    reveals no more than the set does, and the wrong rate is that of a blind choice.

    Args:
        labels: the current labels.
        candidates: [N, C] bool.
        seed: a seed or generator.

    Raises:
        UsageError: shape or dtype differ, or an example's true label is not among its candidates.
    """
    candidates, rows = np.asarray(candidates), np.arange(len(labels.true))
    if candidates.shape != (len(rows), labels.num_classes) or candidates.dtype != bool:
        raise UsageError(
            f"candidates: shape {candidates.shape} of {candidates.dtype}, expected "
            f"{(len(rows), labels.num_classes)} of bool"
        )
    outside = (labels.true < 0) | ~candidates[rows, labels.true]
    if outside.any():
        raise UsageError(
            f"candidates: the true label of {outside.sum()} examples is not among them, first id "
            f"{labels.ids[outside][0]}: put partial labels on true labels, with no noise before them"
        )
    draws = np.where(candidates, np.random.default_rng(seed).random(candidates.shape), -1)
    given = np.argmax(draws, axis=1).astype(np.int32)
    return dataclasses.replace(labels, given=given, candidates=candidates)


def partial_labels(
    labels: BiasedLabels, q: float, draw: Callable[[BiasedLabels, float, Seed], np.ndarray], seed: Seed
) -> BiasedLabels:
    """Draws candidate sets and turns the labels into them.

    Args:
        labels: the current labels.
        q: probability for `draw`.
        draw: `binomial_candidates` or `pair_candidates`.
        seed: a seed or generator, for both the candidates and the given label.

    Raises:
        UsageError: as `draw` and `with_candidates`.
    """
    rng = np.random.default_rng(seed)
    return with_candidates(labels, draw(labels, q, rng), rng)


def most_confident(labels: BiasedLabels, confidences: ArrayLike) -> BiasedLabels:
    """Gives each example the single label that is most likely by its confidences (E.1, stage two).

    Args:
        labels: the current labels; their given labels are replaced.
        confidences: [training split, C] float, rows by id, e.g. PRODEN's final confidences. Ties go to the
            first class.

    Raises:
        UsageError: the shape differs, a row does not sum to one, or the labels are candidate sets.
    """
    return labels.relabel(np.argmax(probabilities_by_id("confidences", confidences, labels), axis=1))


def _check(q: float, num_classes: int) -> None:
    check_rate("partial labels", q, "q")
    if num_classes < 2:
        raise UsageError(
            f"partial labels: {num_classes} class, expected at least 2, so that there is another one"
        )
