"""Test metrics of a classifier, from its results on each example."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.methods.measure import Measured
from cmwnet_jax.train import scores
from cmwnet_jax.train.selective import aurc_percent


def split_metrics(
    measured: Measured, labels: np.ndarray, class_counts: np.ndarray, meta_classes: MetaClasses
) -> dict[str, float | list[float | None] | None]:
    """Computes an epoch's metrics over the whole test split.

    Args:
        measured: the classifier's results on the test split, [N] each.
        labels: [N] int, the true classes.
        class_counts: [C] int, training examples per given label.
        meta_classes: the meta-classes of the training set.

    Returns:
        `test_loss`, `test_accuracy_percent`, `test_top5_percent` (with more than 10 classes), `test_ece` in
        [0, 1], `test_aurc_percent` (see `aurc_percent`), and the mean class accuracies of each meta-class [K]
        and of the classes with many, medium and few training examples; None for a group without classes.
    """
    count = len(class_counts)
    by_class = scores.class_accuracy_percent(scores.confusion_matrix(labels, measured.predictions, count))
    groups = (meta_classes.of_class == k for k in range(meta_classes.num_meta_classes))
    is_right = measured.predictions == labels
    return {
        "test_loss": float(np.mean(measured.losses)),
        "test_accuracy_percent": float(100 * np.mean(is_right)),
        **_top5("test", measured, count),
        "test_ece": scores.expected_calibration_error(measured.confidence, is_right),
        "test_aurc_percent": aurc_percent(measured, labels),
        "test_meta_class_accuracy_percent": [scores.group_accuracy_percent(by_class, g) for g in groups],
        **{
            f"test_{name}_accuracy_percent": scores.group_accuracy_percent(by_class, members)
            for name, members in scores.shot_groups(class_counts).items()
        },
    }


def accuracy_metrics(
    split: str, tested: Mapping[str, Measured], labels: np.ndarray, num_classes: int
) -> dict[str, float]:
    """Computes the accuracies of several classifiers on a split.

    Args:
        split: the split's name in metrics.
        tested: the classifiers' results on it by their names, [N] each.
        labels: [N] int, the true classes.
        num_classes: C.

    Returns:
        `SPLIT_accuracy_percent`, and `SPLIT_top5_percent` with more than 10 classes; for a classifier with a
        name, `NAME_SPLIT_accuracy_percent` and so on.
    """
    metrics = {}
    for name, measured in tested.items():
        place = f"{name}_{split}" if name else split
        metrics[f"{place}_accuracy_percent"] = float(100 * np.mean(measured.predictions == labels))
        metrics |= _top5(place, measured, num_classes)
    return metrics


def _top5(place: str, measured: Measured, num_classes: int) -> dict[str, float]:
    return {f"{place}_top5_percent": scores.top_k_percent(measured.ranks, 5)} if num_classes > 10 else {}


def evaluation_arrays(
    measured: Measured, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The arrays of evaluation.npz: those of `Measured` and `labels`, [N] each, `confusion` and `class_names`.

    Args:
        measured: the classifier's results on the test split.
        labels: [N] int, the true classes.
        class_names: C names.
    """
    confusion = scores.confusion_matrix(labels, measured.predictions, len(class_names))
    named = {"confusion": confusion, "class_names": np.array(class_names)}
    return {**measured._asdict(), "labels": labels, **named}
