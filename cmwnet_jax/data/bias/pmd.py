"""Feature-dependent (PMD) noise: labels near the decision boundary flip to the second choice (Sec. 4.3)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed, check_rate, probabilities_by_id
from cmwnet_jax.errors import UsageError

# The flip probability as a function of the margin between the two most likely classes, as printed in Sec. 4.3.
# Its type III is not 0 at margin 1; that of the cited PLC paper is.
_TAU: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda margin: 0.5 - 0.5 * margin**2,
    2: lambda margin: 1 - margin**3,
    3: lambda margin: 1 - (margin**3 + margin) / 3,
}
_TAU_PLC = {**_TAU, 3: lambda margin: 1 - (margin**3 + margin**2 + margin) / 3}


def flip_probability(kind: int, margin: ArrayLike) -> np.ndarray:
    """The paper's tau (Sec. 4.3), without the scale.

    Args:
        kind: 1, 2 or 3.
        margin: [N] float in [0, 1], eta_u - eta_s, the difference of the two highest class probabilities.

    Returns:
        [N] float64.

    Raises:
        UsageError: there is no such type.
    """
    return _formula(_TAU, kind)(np.asarray(margin, np.float64))


def pmd_noise(labels: BiasedLabels, kind: int, rate: float, posterior: ArrayLike, seed: Seed) -> BiasedLabels:
    """Type I-III noise as Sec. 4.3 prints it: P(given = s | label = u, x) = min(1, scale * tau(x)).

    u and s are the most and second most likely classes of x. The scale is chosen such that `rate` is the
    expected share of flipped labels. An example whose label is not u keeps it: the formula is conditional on
    u, so every flip of a clean label makes it wrong.

    Args:
        labels: the current labels.
        kind: 1, 2 or 3.
        rate: expected share of flips, in [0, 1]; each example is drawn independently.
        posterior: [training split, C] float, rows by id, e.g. the softmax of a classifier trained on clean
            labels.
        seed: a seed or generator.

    Raises:
        UsageError: there is no such type, the posterior is not a distribution, or no scale reaches the rate.
    """
    check_rate(f"pmd{kind}", rate)
    tau = _formula(_TAU, kind)
    first, second, margin = _two_most_likely(labels, posterior)
    flippable = np.where(labels.given == first, tau(margin), 0.0)

    def probability(scale: float) -> np.ndarray:
        return np.minimum(1, scale * flippable)

    flip = probability(_solve(f"pmd{kind}", lambda scale: float(np.mean(probability(scale))), rate))
    drawn = np.random.default_rng(seed).random(len(flip)) < flip
    return labels.relabel(np.where(drawn, second, labels.given))


def pmd_noise_plc(
    labels: BiasedLabels, kind: int, rate: float, posterior: ArrayLike, seed: Seed
) -> BiasedLabels:
    """Type I-III noise as in the PLC authors' code, whose label files Table 3 uses.

    It differs from the text in three ways. Every label becomes u or s, even if the true label is neither. The
    factor divides the probability 1 - tau of *keeping* u, so confident examples flip too (30% of them for
    type I at 35%). Type III has a squared term, tau = 1 - (m^3 + m^2 + m) / 3.

    Args:
        labels, kind, posterior, seed: as in `pmd_noise`.
        rate: expected share of labels that change, in [0, 1].

    Raises:
        UsageError: there is no such type, the posterior is not a distribution, or no factor reaches the rate.
    """
    check_rate(f"pmd{kind}_plc", rate)
    tau = _formula(_TAU_PLC, kind)
    first, second, margin = _two_most_likely(labels, posterior)
    keep = 1 - tau(margin)

    def probability(scale: float) -> np.ndarray:
        return 1 - np.minimum(1, keep / scale)

    def changed(scale: float) -> float:
        flip = probability(scale)
        return float(np.mean(np.where(labels.given != second, flip, 0) + (labels.given != first) * (1 - flip)))

    flip = probability(_solve(f"pmd{kind}_plc", changed, rate))
    drawn = np.random.default_rng(seed).random(len(flip)) < flip
    return labels.relabel(np.where(drawn, second, first))


def _formula(formulas: dict, kind: int) -> Callable[[np.ndarray], np.ndarray]:
    if kind not in formulas:
        raise UsageError(f"pmd: type is {kind!r}, expected 1, 2 or 3 (Sec. 4.3)")
    return formulas[kind]


def _two_most_likely(labels: BiasedLabels, posterior: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([N] most likely class, [N] second most likely, [N] float64 margin between them)."""
    posterior = probabilities_by_id("posterior", posterior, labels)
    # Two argmax instead of a sort: ties go to the lower index.
    first, rows = posterior.argmax(axis=1), np.arange(len(posterior))
    highest = posterior[rows, first]
    posterior[rows, first] = -1
    second = posterior.argmax(axis=1)
    return first, second, highest - posterior[rows, second]


def _solve(field: str, share: Callable[[float], float], rate: float) -> float:
    """The scale at which a continuous share equals `rate`, by bisection of the scale's logarithm.

    At the bounds, float64 probabilities are practically 0 and 1.
    """
    low, high = -700.0, 700.0
    reached = share(np.exp(low)), share(np.exp(high))
    if not reached[0] - 1e-9 <= rate <= reached[1] + 1e-9:
        raise UsageError(
            f"{field}: noise rate is {rate:g}, expected {reached[0]:.4g} to {reached[1]:.4g}, what this "
            f"posterior allows: use a less certain one (an earlier checkpoint), or another rate"
        )
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if share(np.exp(middle)) < rate else (low, middle)
    return float(np.exp(high))
