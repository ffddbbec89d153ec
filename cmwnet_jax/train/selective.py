"""Scores of a classifier that may abstain: selective errors at given coverages, and the risk-coverage curve."""

import math
from collections.abc import Sequence

import numpy as np

from cmwnet_jax.methods.measure import Measured

ACCEPT_ALL = float(np.finfo(np.float32).min)
"""The threshold at full coverage, where nothing is rejected."""


def threshold(certainty: np.ndarray, coverage_percent: float) -> float:
    """The highest threshold with which at least this share of the examples is accepted.

    It is a percentile of the certainties on a validation split, as in SelectiveNet (Geifman and El-Yaniv 2019).
    An example is accepted if its certainty is not below the threshold.

    Args:
        certainty: [m] float, on examples that are not in the test split.
        coverage_percent: in (0, 100]; with 100, nothing is rejected on other examples either.
    """
    if coverage_percent == 100:
        return ACCEPT_ALL
    accepted = math.ceil(round(coverage_percent * len(certainty) / 100, 6))  # 0.07 * 100 is 7.000000000000001
    return float(np.sort(certainty)[len(certainty) - accepted])


def risk_coverage_curve(certainty: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """The error among the k most certain examples, for k = 1 to N: the risk-coverage curve.

    Examples of equal certainty are accepted in random order; the curve is the mean over these orders.

    Args:
        certainty: [N] float.
        is_right: [N] bool, whether the prediction is right.

    Returns:
        [N] float64, in per cent. Its mean is the area under the curve, AURC (Geifman et al. 2019, "Bias-reduced
        uncertainty estimation").
    """
    _, group = np.unique(-np.asarray(certainty, np.float64), return_inverse=True)
    ends = np.concatenate([[0], np.cumsum(np.bincount(group))])
    wrong_at_ends = np.concatenate([[0], np.cumsum(np.bincount(group, weights=~is_right))])
    taken = np.arange(1, len(group) + 1)
    return 100 * np.interp(taken, ends, wrong_at_ends) / taken


def aurc_percent(measured: Measured, labels: np.ndarray) -> float:
    """The area under the risk-coverage curve in per cent, 0 at best; NaN if a certainty is.

    Args:
        measured: the classifier's results on a split.
        labels: [N] int, the true classes.
    """
    if np.isnan(measured.certainty).any():
        return float("nan")
    return float(np.mean(risk_coverage_curve(measured.certainty, measured.predictions == labels)))


def selective_arrays(
    test: Measured, labels: np.ndarray, calibration: Measured, coverages_percent: Sequence[float]
) -> dict[str, np.ndarray]:
    """The arrays of selective.npz, which Table 15 and Fig. 18 are made from.

    Args:
        test: the classifier's results on the test split.
        labels: [N] int, the true classes of the test split.
        calibration: its results on the calibration split, whose labels are not used.
        coverages_percent: k coverages.

    Returns:
        For each coverage, [k]: `coverages_percent`; `thresholds`, calibrated; `accepted` and `wrong`, how many
        test examples are accepted, and how many of these are misclassified. `curve_percent` [N] float32 is the
        risk-coverage curve on the test split.
    """
    is_right = test.predictions == labels
    thresholds = np.array([threshold(calibration.certainty, coverage) for coverage in coverages_percent])
    accepted = test.certainty[None] >= thresholds[:, None]
    return {
        "coverages_percent": np.array(coverages_percent, np.float64),
        "thresholds": thresholds,
        "accepted": np.sum(accepted, axis=1),
        "wrong": np.sum(accepted & ~is_right[None], axis=1),
        "curve_percent": risk_coverage_curve(test.certainty, is_right).astype(np.float32),
    }
