"""How good a classifier is on a whole split: pure functions of labels, predictions and confidences."""

import numpy as np

MANY_SHOT, FEW_SHOT = 100, 20
"""Classes with more training examples than the one have many, with fewer than the other few."""


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class was taken for each.

    Args:
        labels: [N] int in [0, C), the true classes.
        predictions: [N] int in [0, C).
        num_classes: C.

    Returns:
        [C, C] int64, a row a true class, a column a predicted one.
    """
    pairs = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracy_percent(confusion: np.ndarray) -> np.ndarray:
    """The share of each class's examples that was recognised, its recall.

    Args:
        confusion: [C, C] int, as `confusion_matrix` returns it.

    Returns:
        [C] float64 in per cent; NaN for a class without examples.
    """
    sizes = confusion.sum(axis=1)
    return np.where(sizes, 100.0 * np.diag(confusion) / np.maximum(sizes, 1), np.nan)


def group_accuracy_percent(class_accuracy: np.ndarray, members: np.ndarray) -> float | None:
    """The mean over a group's classes, each counting alike however many test examples it has.

    That is how the accuracies of many-, medium- and few-shot classes were defined (Liu et al. 2019,
    Large-scale long-tailed recognition in an open world).

    Args:
        class_accuracy: [C] float, in per cent; NaN where a class has no test examples.
        members: [C] bool, the classes of the group.

    Returns:
        In per cent; None for a group none of whose classes has test examples.
    """
    known = class_accuracy[members & np.isfinite(class_accuracy)]
    return float(np.mean(known)) if len(known) else None


def shot_groups(class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Which classes have many (more than 100), medium (20 to 100) and few (fewer than 20) examples.

    Args:
        class_counts: [C] int, *training* examples by given label.

    Returns:
        [C] bool for each of `many_shot`, `medium_shot` and `few_shot`.
    """
    many, few = class_counts > MANY_SHOT, class_counts < FEW_SHOT
    return {"many_shot": many, "medium_shot": ~many & ~few, "few_shot": few}


def top_k_percent(ranks: np.ndarray, k: int) -> float:
    """Share of the examples whose true class is among the first k.

    Args:
        ranks: [N] int, how many classes come before the true one, from 0.
        k: at least 1.
    """
    return float(100 * np.mean(ranks < k))


def expected_calibration_error(confidence: np.ndarray, is_right: np.ndarray, num_bins: int = 15) -> float:
    """How far confidence is from accuracy, over bins of equal width (Guo et al. 2017, Eq. 3).

    `sum_b (n_b / N) |accuracy_b - confidence_b|`, bin b holding the confidences in
    `((b - 1) / num_bins, b / num_bins]`.

    Args:
        confidence: [N] float in [0, 1], the predicted class's probability.
        is_right: [N] bool, whether that class is the true one.
        num_bins: how many bins.

    Returns:
        In [0, 1], 0 for a classifier that is right as often as it says.
    """
    confidence = confidence.astype(np.float64)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    # n_b cancels: what is left of bin b is the sum of its (right - confidence).
    gaps = np.bincount(bins, weights=is_right - confidence, minlength=num_bins)
    return float(np.sum(np.abs(gaps)) / len(confidence))
