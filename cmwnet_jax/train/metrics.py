"""An epoch's metrics, from the values that its steps reported."""

import numpy as np
from sklearn.metrics import roc_auc_score

from cmwnet_jax.runs.stored import LAST_EPOCHS

NEAR = 0.05
"""Weights closer than this to 0 or 1 count as near it."""


def weight_auc(weights: np.ndarray, is_wrong: np.ndarray) -> float:
    """ROC AUC of the weights as a detector of right labels (the positive class).

    Args:
        weights: [n] float.
        is_wrong: [n] bool.

    Returns:
        In [0, 1], 0.5 for uninformative weights; NaN if all labels are right or all are wrong.
    """
    if is_wrong.all() or not is_wrong.any():
        return float("nan")
    return float(roc_auc_score(~is_wrong, weights))


def effective_share(weights: np.ndarray) -> float:
    """Effective sample size over n, (sum w)^2 / (n sum w^2), in [0, 1]; 0 if all weights are 0."""
    squares = float(np.sum(np.square(weights, dtype=np.float64)))
    return float(np.sum(weights, dtype=np.float64)) ** 2 / (len(weights) * squares) if squares else 0.0


def weight_metrics(
    weights: np.ndarray, is_wrong: np.ndarray | None, meta_class: np.ndarray, num_meta_classes: int
) -> dict[str, float | list[float]]:
    """Summarises an epoch's weights; the mean over no weights is NaN.

    Args:
        weights: [n] float, the weights of the visited examples.
        is_wrong: [n] bool, whether an example's label is wrong; None if the truth is not known.
        meta_class: [n] int in [0, K), the meta-class of its given label.
        num_meta_classes: K.

    Returns:
        Metrics by name. Shares are in [0, 1]; `weight_mean_by_meta_class` is [K].
    """
    if is_wrong is None:
        by_truth = dict.fromkeys(("weight_mean_right", "weight_mean_wrong", "weight_auc"), float("nan"))
    else:
        by_truth = {
            "weight_mean_right": _mean(weights[~is_wrong]),
            "weight_mean_wrong": _mean(weights[is_wrong]),
            "weight_auc": weight_auc(weights, is_wrong),
        }
    return {
        "weight_mean": float(np.mean(weights)),
        "weight_effective_share": effective_share(weights),
        "weight_share_near_zero": float(np.mean(weights < NEAR)),
        "weight_share_near_one": float(np.mean(weights > 1 - NEAR)),
        "weight_mean_by_meta_class": [_mean(weights[meta_class == k]) for k in range(num_meta_classes)],
        **by_truth,
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def after_warmup(history: list[dict], warmup_epochs: int) -> list[dict]:
    """The epochs to average over: those after the warm-up, or all if there are none.

    Args:
        history: the metrics of every epoch.
        warmup_epochs: the number of warm-up epochs.
    """
    return [line for line in history if line["epoch"] >= warmup_epochs] or history


def last_epochs_mean(history: list[dict], field: str, epochs: int = LAST_EPOCHS) -> float:
    """Mean of a field over the last epochs, of those that have it; NaN if none has (Sec. 4.2)."""
    values = [line[field] for line in history[-epochs:] if line.get(field) is not None]
    return float(np.mean(values)) if values else float("nan")
