"""What the tests of biases share: labels to bias, a posterior, and the test of a law."""

import numpy as np
from scipy.stats import chisquare

from cmwnet_jax.data import bias

C = 10
# A law passes at this significance with the fixed seeds below, and a wrong law must fall below POWER.
ALPHA, POWER = 1e-3, 1e-6


def clean(per_class: int = 500, num_classes: int = C, seed: int = 0) -> bias.BiasedLabels:
    """Balanced classes in random order, as a data set has them."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), per_class))
    return bias.BiasedLabels.clean(labels, num_classes)


def make_posterior(
    labels: np.ndarray, num_classes: int = C, sharpness: float = 4.0, seed: int = 0
) -> np.ndarray:
    """Softmax outputs of a good classifier: right for most, with margins from 0 to 1."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += sharpness
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def law_p(observed, expected) -> float:
    """Chi-squared p-value of counts against the expected ones."""
    expected = np.asarray(expected, np.float64)
    return chisquare(observed, expected * np.sum(observed) / expected.sum()).pvalue


HUMAN = {"worse": np.random.default_rng(5).integers(C, size=5000), "clean": clean().true}
INPUTS = {
    "posterior": make_posterior(clean().true),
    "human_labels": HUMAN,
    "confidences": make_posterior(clean().true, seed=1),
    "foreign": bias.ForeignSet("cifar100", 4000),
}


def apply(name: str, labels: bias.BiasedLabels, seed: int = 0, **kwargs) -> bias.BiasedLabels:
    return bias.apply(name, labels, kwargs.pop("dataset", "cifar10"), seed, **(kwargs or INPUTS))
