"""Few labels: N examples, as many of each class, keep their labels (Sec. 7.2, E.2)."""

import dataclasses

import numpy as np

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed
from cmwnet_jax.errors import UsageError


def few_labels(labels: BiasedLabels, count: float, seed: Seed) -> BiasedLabels:
    """Takes the labels of all examples but `count`, as many of each class, away; all keep their images.

    Args:
        labels: the current labels; classes are those of the given labels.
        count: number of examples that keep their labels, a multiple of the number of classes.
        seed: a seed or generator.

    Returns:
        Labels with `given` -1 for the examples without a label.

    Raises:
        UsageError: there is no such choice.
    """
    kept = np.zeros(len(labels.ids), bool)
    kept[_drawn("labels", labels, count, seed)] = True
    return dataclasses.replace(labels, given=np.where(kept, labels.given, -1).astype(np.int32))


def balanced_subset(labels: BiasedLabels, count: float, seed: Seed) -> BiasedLabels:
    """Keeps only the examples that have a label after `few_labels` with the same seed.

    Args:
        labels, count, seed: as in `few_labels`.

    Raises:
        UsageError: as `few_labels`.
    """
    return labels.take(_drawn("balanced_subset", labels, count, seed))


def _drawn(kind: str, labels: BiasedLabels, count: float, seed: Seed) -> np.ndarray:
    """[count] rows, as many of each class."""
    num_classes, counts = labels.num_classes, labels.class_counts
    if not (count > 0 and count % num_classes == 0):
        raise UsageError(
            f"{kind}: count is {count:g}, expected a multiple of the {num_classes} classes, as many of each: "
            f"take {max(round(count / num_classes), 1) * num_classes}"
        )
    if count > len(labels.ids):
        raise UsageError(
            f"{kind}: count is {count:g}, expected at most the {len(labels.ids)} examples: lower it"
        )
    each, smallest = int(count) // num_classes, int(np.argmin(counts))
    if each > counts[smallest]:
        raise UsageError(
            f"{kind}: count is {count:g}, which is {each} of each class, but class {smallest} has "
            f"{counts[smallest] or 'no'} examples: "
            + ("lower it" if counts[smallest] else "every class needs labels, take another bias before it")
        )
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.choice(np.flatnonzero(labels.given == c), each, replace=False) for c in range(num_classes)]
    )
