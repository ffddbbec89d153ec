"""A mixture of two beta distributions on losses: right labels have low ones, wrong labels high ones.

As in Arazo et al. 2019 and their code: losses between their 5th and 95th percentile are scaled to [0, 1] and
kept away from its ends; then ten rounds of EM from fixed starting values, with weighted moments in place of
maximum-likelihood parameters.
"""

from math import lgamma
from typing import NamedTuple

import numpy as np

ROUNDS = 10
PERCENTILES = (5, 95)
EDGE = 1e-4
"""Distance that scaled losses keep from 0 and 1, where a beta density may be infinite."""

GRID = np.linspace(EDGE, 1 - EDGE, 100)
"""The scaled losses of `wrong_by_value`."""

_LEAST_SPREAD = 1e-6


class BetaMixture(NamedTuple):
    """Parameters of the two components; the second has the higher mean, and stands for wrong labels.

    Attributes:
        alpha, beta: [2] float64, parameters of the distributions.
        share: [2] float64, their shares, which sum to 1.
    """

    alpha: np.ndarray
    beta: np.ndarray
    share: np.ndarray

    def log_joint(self, values: np.ndarray) -> np.ndarray:
        """Log of share times density of each component, [2, n].

        Args:
            values: [n] float in (0, 1).
        """
        scale = [lgamma(a + b) - lgamma(a) - lgamma(b) for a, b in zip(self.alpha, self.beta, strict=True)]
        log_density = np.outer(self.alpha - 1, np.log(values)) + np.outer(self.beta - 1, np.log1p(-values))
        return (np.log(self.share) + scale)[:, None] + log_density

    def posterior(self, values: np.ndarray) -> np.ndarray:
        """Probability of each component given a value, [2, n].

        Args:
            values: [n] float in (0, 1).
        """
        joint = self.log_joint(values)
        return np.exp(joint - np.logaddexp.reduce(joint, axis=0))


START = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5]))
"""The mixture before the first round."""


def scaled(losses: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scales losses to [EDGE, 1 - EDGE]; those below `low` or above `high` are clipped.

    Args:
        losses: [n] float.
        low, high: the losses that 0 and 1 stand for.
    """
    return np.clip((losses - low) / max(high - low, _LEAST_SPREAD), EDGE, 1 - EDGE)


def loss_range(losses: np.ndarray) -> tuple[float, float]:
    """The losses that 0 and 1 stand for, (low, high): percentiles, as outliers would squeeze the others.

    Args:
        losses: [n] float.
    """
    low, high = np.percentile(losses, PERCENTILES, method="nearest")
    return float(low), float(high)


def wrong_by_value(mixture: BetaMixture) -> np.ndarray:
    """Probability that a label is wrong, at `GRID`.

    Beyond the mean of a component, its probability does not fall: near 0 and 1, the broader density may be the
    higher one, whichever it is. The authors' code keeps the maximum; here both ends are kept.

    Args:
        mixture: from `fit`.

    Returns:
        [100] float64.
    """
    wrong = mixture.posterior(GRID)[1]
    right_at, wrong_at = np.searchsorted(GRID, mixture.alpha / (mixture.alpha + mixture.beta))
    wrong[:right_at] = np.minimum.accumulate(wrong[:right_at][::-1])[::-1]
    wrong[wrong_at:] = np.maximum.accumulate(wrong[wrong_at:])
    return wrong


def fit(values: np.ndarray, start: BetaMixture = START) -> BetaMixture:
    """Fits a mixture by ten rounds of EM with weighted moments.

    Args:
        values: [n] float in (0, 1), e.g. from `scaled`.
        start: where it starts.
    """
    mixture = start
    for _ in range(ROUNDS):
        mixture = _moments(values, mixture.posterior(values))
    order = np.argsort(mixture.alpha / (mixture.alpha + mixture.beta), kind="stable")
    return BetaMixture(*(part[order] for part in mixture))


def _moments(values: np.ndarray, weights: np.ndarray) -> BetaMixture:
    """The beta distributions with the weighted means and variances of the values."""
    total = np.maximum(weights.sum(axis=1), _LEAST_SPREAD)
    mean = np.clip(weights @ values / total, EDGE, 1 - EDGE)
    variance = np.sum(weights * (values - mean[:, None]) ** 2, axis=1) / total
    concentration = mean * (1 - mean) / np.maximum(variance, _LEAST_SPREAD) - 1
    share = np.clip(weights.mean(axis=1), EDGE, 1 - EDGE)
    return BetaMixture(mean * concentration, (1 - mean) * concentration, share / share.sum())
