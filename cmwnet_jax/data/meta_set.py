"""Which training examples the meta loss is measured on."""

import numpy as np

from cmwnet_jax.data.bias import BiasedLabels, Seed


def lowest_loss(losses: np.ndarray, labels: np.ndarray, num_classes: int, per_class: int) -> np.ndarray:
    """Per class, the examples of lowest loss by given label: a meta set without clean data (Sec. 4.2).

    Args:
        losses: [N] float under the current classifier.
        labels: [N] int, given labels.
        num_classes: C.
        per_class: examples of each class; a class that has fewer gives all it has.

    Returns:
        Ascending rows, at most C * per_class.
    """
    order = np.argsort(losses, kind="stable")
    rows = [order[labels[order] == c][:per_class] for c in range(num_classes)]
    return np.sort(np.concatenate(rows))


def balanced(labels: np.ndarray, num_classes: int, per_class: int, seed: Seed) -> np.ndarray:
    """Per class, as many random examples as the smallest class has, but at most `per_class` (B.1, Q28).

    Args:
        labels: [N] int, given labels.
        num_classes: C; classes without an example are passed over.
        per_class: the cap.
        seed: a seed or generator; another one each epoch draws the set afresh.

    Returns:
        Ascending rows, the same number of each class.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=num_classes)
    size = min(per_class, counts[counts > 0].min())
    rows = [rng.permutation(np.flatnonzero(labels == c))[:size] for c in range(num_classes)]
    return np.sort(np.concatenate(rows))


def hold_out(labels: BiasedLabels, per_class: int, seed: Seed) -> tuple[np.ndarray, BiasedLabels]:
    """Sets a clean and balanced meta set apart *before* any bias, so that training never sees it.

    Args:
        labels: clean labels.
        per_class: examples of each class that are set apart.
        seed: a seed or generator.

    Returns:
        (rows of the meta set, ascending; the labels that are left for training).
    """
    rows = balanced(labels.true, labels.num_classes, per_class, seed)
    return rows, labels.take(np.setdiff1d(np.arange(len(labels.ids)), rows))
