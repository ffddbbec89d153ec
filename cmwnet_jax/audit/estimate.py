"""How many labels are wrong: an estimate from the labels that the classifier contradicts in the end."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from sklearn.isotonic import IsotonicRegression


def contradicted(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N] bool, whether another class is more likely than the given one.

    Args:
        table: `other_probability` and `given_probability` [N] float, as in `Examples.table`.
    """
    return table["other_probability"] > table["given_probability"]


class Agreement(NamedTuple):
    """How far a classifier's predictions agree with given labels.

    Attributes:
        share: of the labels that it predicts, in [0, 1].
        by_chance: the share that it would predict if predictions and labels were independent of each other,
            with the same frequencies.
    """

    share: float
    by_chance: float

    @property
    def kappa(self) -> float:
        """Cohen's kappa: the share beyond chance, 1 for full agreement, about 0 by chance.

        If a classifier knew the class of some examples and guessed the others, it would be the share that it
        knows.
        """
        return (self.share - self.by_chance) / (1 - self.by_chance) if self.by_chance < 1 else 0.0

    @property
    def is_enough(self) -> bool:
        """Whether an estimate can rest on what the classifier contradicts: it knows at least every other class.

        Below that, most of its predictions may be guesses, as those of a classifier that has hardly learned.
        """
        return self.kappa >= LEAST_KAPPA


LEAST_KAPPA = 0.5
"""Smallest agreement with the test labels, as Cohen's kappa, with which an estimate is given."""


def agreement(confusion: np.ndarray) -> Agreement:
    """The agreement in a confusion matrix, of labels that the classifier has not been trained on.

    Args:
        confusion: [C, C] int, labels by row and predictions by column, of at least one example.

    Example:
        >>> agreement(np.array([[3, 1], [1, 3]])), agreement(np.array([[3, 1], [1, 3]])).kappa
        (Agreement(share=0.75, by_chance=0.5), 0.5)
    """
    shares = confusion / np.sum(confusion)
    by_chance = np.sum(shares.sum(axis=0) * shares.sum(axis=1))
    return Agreement(float(np.trace(shares)), float(by_chance))


def teachers_agreement(share: float, confusion: np.ndarray) -> Agreement:
    """The agreement of a teacher, whose predictions are not known one by one.

    Args:
        share: of the test labels that it predicts.
        confusion: [C, C] int, the same labels by row.

    Returns:
        The agreement, where chance is the share of the most frequent class, which is the most that predictions
        can have that do not depend on the example.
    """
    labels = confusion.sum(axis=1)
    return Agreement(share, float(labels.max() / labels.sum()))


def unlikely_on_average(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N] bool, whether the given class had less than half of the probability on average over the epochs.

    In the end, a classifier may agree with wrong labels that it has memorised; it did not from the beginning.
    Where many more labels are unlikely on average than are contradicted in the end, the estimate of
    `wrong_probability` is too low. Of a classifier that learns slowly, right labels are unlikely, too.

    Args:
        table: `margin` [N] float, as in `Examples.table`.
    """
    return table["margin"] < 0


def wrong_probability(score: np.ndarray, is_contradicted: np.ndarray) -> np.ndarray:
    """The probability that each label is wrong, from its score.

    A classifier that has memorised some of the wrong labels contradicts only the others. These are taken for
    a random part of all wrong labels (Elkan and Noto 2008, Learning classifiers from only positive and
    unlabeled data): the number of contradicted labels is divided by their share among the most suspicious
    labels, as many as are contradicted. That many wrong labels are spread over the scores in proportion to the
    share of contradicted labels at each score, by isotonic regression, but none is more than certain. The
    estimate is too low if hardly any wrong label is contradicted, as after long plain training; it is 0 if
    none is.

    Args:
        score: [N] float, higher is more suspicious.
        is_contradicted: [N] bool.

    Returns:
        [N] float64 in [0, 1], which never falls as the score rises. The sum is the estimated number of wrong
        labels.

    Example:
        >>> score, wrong = np.array([5.0, 4, 3, 2, 1, 0]), np.array([True, False, True, False, False, False])
        >>> wrong_probability(score, wrong).tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    count = int(np.sum(is_contradicted))
    if not count:
        return np.zeros(len(score))
    share = IsotonicRegression().fit_transform(score, is_contradicted.astype(np.float64))
    most_suspicious = np.argsort(-score, kind="stable")[:count]
    kept = np.mean(is_contradicted[most_suspicious])
    return _scaled(share, count / kept) if kept else share


def _scaled(share: np.ndarray, total: float) -> np.ndarray:
    """`min(factor * share, 1)` with the factor for which it sums to `total`, or as near as that can be."""
    values, counts = np.unique(share, return_counts=True)
    low, high = 0.0, 1 / values[values > 0][0]  # at `high`, all that is positive has reached 1
    for _ in range(64):
        factor = (low + high) / 2
        if np.sum(counts * np.minimum(factor * values, 1)) < total:
            low = factor
        else:
            high = factor
    return np.minimum(high * share, 1)
