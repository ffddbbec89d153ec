"""Biases that remove examples: a long tail, and a random subset."""

import numpy as np

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed
from cmwnet_jax.errors import UsageError


def long_tail(labels: BiasedLabels, factor: float, seed: Seed) -> BiasedLabels:
    """Exponential long tail: class c keeps `floor(N_c * factor**(-c / (C - 1)))` (Sec. 4.1, Q29).

    Args:
        labels: the current labels; examples are removed at random, by given label.
        factor: size of the largest class over that of the smallest, for a balanced set; at least 1.
        seed: a seed or generator.

    Raises:
        UsageError: the factor is below 1, or so large that a class would become empty.
    """
    if not 1 <= factor < np.inf:
        raise UsageError(f"long_tail: imbalance factor is {factor:g}, expected at least 1 (1 keeps everything)")
    rng = np.random.default_rng(seed)
    counts = labels.class_counts
    power = -np.arange(labels.num_classes) / max(labels.num_classes - 1, 1)
    kept = np.floor(counts * float(factor) ** power + 1e-9).astype(int)
    emptied = np.flatnonzero((kept == 0) & (counts > 0))
    if len(emptied):
        c = emptied[0]
        raise UsageError(
            f"long_tail: imbalance factor {factor:g} leaves class {c} none of its {counts[c]} examples: "
            f"choose a smaller one"
        )
    rows = [rng.permutation(np.flatnonzero(labels.given == c))[: kept[c]] for c in range(labels.num_classes)]
    return labels.take(np.concatenate(rows))


def subset(labels: BiasedLabels, count: float, seed: Seed) -> BiasedLabels:
    """Keeps `count` random examples, whatever their classes.

    Args:
        labels: the current labels.
        count: number of examples to keep, an integer from 1 to N.
        seed: a seed or generator.

    Raises:
        UsageError: the count is not such a number.
    """
    num_examples = len(labels.ids)
    if not (1 <= count <= num_examples and count == int(count)):
        raise UsageError(f"subset: count is {count}, expected a whole number from 1 to {num_examples}")
    return labels.take(np.random.default_rng(seed).permutation(num_examples)[: int(count)])
