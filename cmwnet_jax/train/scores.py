"""Scores of a classifier on a whole split: pure functions of labels, predictions and confidences."""

import numpy as np

MANY_SHOT, FEW_SHOT = 100, 20
"""Many-shot classes have more than 100 training examples, few-shot classes fewer than 20."""


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the examples for each pair of true and predicted class.

    Args:
        labels: [N] int in [0, C), the true classes.
        predictions: [N] int in [0, C).
        num_classes: C.

    Returns:
        [C, C] int64, one row per true class and one column per predicted class.
    """
    pairs = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracy_percent(confusion: np.ndarray) -> np.ndarray:
    """The accuracy within each class, i.e. its recall.

    Args:
        confusion: [C, C] int, from `confusion_matrix`.

    Returns:
        [C] float64 in per cent; NaN for a class without examples.
    """
    sizes = confusion.sum(axis=1)
    return np.where(sizes, 100.0 * np.diag(confusion) / np.maximum(sizes, 1), np.nan)


def group_accuracy_percent(class_accuracy: np.ndarray, members: np.ndarray) -> float | None:
    """The mean accuracy over a group's classes, each with the same weight.

    This is the definition for many-, medium- and few-shot classes in Liu et al. 2019, Large-scale long-tailed
    recognition in an open world.

    Args:
        class_accuracy: [C] float, in per cent; NaN where a class has no test examples.
        members: [C] bool, the classes of the group.

    Returns:
        In per cent; None if no class of the group has test examples.
    """
    known = class_accuracy[members & np.isfinite(class_accuracy)]
    return float(np.mean(known)) if len(known) else None


def shot_groups(class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Groups classes by size: many-shot (more than 100), medium-shot (20 to 100), few-shot (fewer than 20).

    Args:
        class_counts: [C] int, *training* examples per given label.

    Returns:
        `many_shot`, `medium_shot` and `few_shot`, [C] bool each.
    """
    many, few = class_counts > MANY_SHOT, class_counts < FEW_SHOT
    return {"many_shot": many, "medium_shot": ~many & ~few, "few_shot": few}


def top_k_percent(ranks: np.ndarray, k: int) -> float:
    """Top-k accuracy in per cent.

    Args:
        ranks: [N] int, the number of classes ranked before the true one.
        k: at least 1.
    """
    return float(100 * np.mean(ranks < k))


def expected_calibration_error(confidence: np.ndarray, is_right: np.ndarray, num_bins: int = 15) -> float:
    """Expected calibration error with bins of equal width (Guo et al. 2017, Eq. 3).

    `sum_b (n_b / N) |accuracy_b - confidence_b|`, where bin b contains the confidences in
    `((b - 1) / num_bins, b / num_bins]`.

    Args:
        confidence: [N] float in [0, 1], the predicted class's probability.
        is_right: [N] bool, whether that class is the true one.
        num_bins: the number of bins.

    Returns:
        In [0, 1]; 0 for a perfectly calibrated classifier.
    """
    confidence = confidence.astype(np.float64)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    # n_b cancels: bin b contributes |the sum of its (right - confidence)| / N.
    gaps = np.bincount(bins, weights=is_right - confidence, minlength=num_bins)
    return float(np.sum(np.abs(gaps)) / len(confidence))
