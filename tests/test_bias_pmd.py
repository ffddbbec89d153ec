"""Feature-dependent noise: the three types' formulas, levels and laws."""

import numpy as np
import pytest
from bias_laws import ALPHA, POWER, C, clean, make_posterior
from scipy.optimize import brentq
from scipy.stats import chi2

from cmwnet_jax.data import bias
from cmwnet_jax.data.bias.pmd import flip_probability
from cmwnet_jax.errors import UsageError

LABELS = clean(2000)
POSTERIOR = make_posterior(LABELS.true)
ORDERED = np.sort(POSTERIOR, axis=1)
MARGIN = ORDERED[:, -1] - ORDERED[:, -2]
FIRST, SECOND = np.argsort(POSTERIOR, axis=1)[:, [-1, -2]].T


def by_text(kind: int, rate: float) -> np.ndarray:
    """Flip probabilities from Sec. 4.3's text: tau times the number that gives the level."""
    tau = {1: -0.5 * MARGIN**2 + 0.5, 2: 1 - MARGIN**3, 3: 1 - (MARGIN**3 + MARGIN) / 3}[kind]
    tau = tau * (LABELS.true == FIRST)
    scale = brentq(lambda scale: np.mean(np.minimum(1, scale * tau)) - rate, 0, 1e9)
    return np.minimum(1, scale * tau)


def law_p(flipped: np.ndarray, probability: np.ndarray) -> float:
    """Chi-squared test over 20 bins of equal size by margin, with each example's own probability."""
    bins = np.array_split(np.argsort(MARGIN), 20)
    observed = np.array([flipped[rows].sum() for rows in bins])
    mean = np.array([probability[rows].sum() for rows in bins])
    variance = np.array([(probability[rows] * (1 - probability[rows])).sum() for rows in bins])
    certain = variance < 1e-9
    assert np.all(np.abs(observed - mean)[certain] < 1e-6)
    statistic = np.sum((observed - mean)[~certain] ** 2 / variance[~certain])
    return chi2.sf(statistic, np.sum(~certain))


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.35, 0.7])
def test_follows_the_text(kind, rate):
    labels = bias.pmd_noise(LABELS, kind, rate, POSTERIOR, seed=1)
    assert labels.wrong_rate == pytest.approx(rate, abs=0.015)
    np.testing.assert_array_equal(labels.given[labels.is_wrong], SECOND[labels.is_wrong])
    assert law_p(labels.is_wrong, by_text(kind, rate)) > ALPHA


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_another_law_is_seen(kind):
    flipped = bias.pmd_noise(LABELS, kind, 0.35, POSTERIOR, seed=1).is_wrong
    flat = np.full(len(LABELS.ids), 0.35)
    for wrong in [by_text(kind, 0.39), flat, *(by_text(other, 0.35) for other in {1, 2, 3} - {kind})]:
        p = law_p_or_zero(flipped, wrong)
        assert p < POWER


def law_p_or_zero(flipped, probability) -> float:
    try:
        return law_p(flipped, probability)
    except AssertionError:  # an example flipped that cannot
        return 0.0


def test_formulas_at_the_ends():
    assert [flip_probability(kind, [0.0, 1.0]).tolist() for kind in (1, 2)] == [[0.5, 0], [1, 0]]
    np.testing.assert_allclose(flip_probability(3, [0.0, 0.5, 1.0]), [1, 1 - 0.625 / 3, 1 / 3])


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.35, 0.7])
def test_plc_code_scales_the_probability_to_keep(kind, rate):
    keep = {
        1: 0.5 + 0.5 * MARGIN**2,
        2: MARGIN**3,
        3: (MARGIN**3 + MARGIN**2 + MARGIN) / 3,
    }[kind]
    labels = bias.pmd_noise_plc(LABELS, kind, rate, POSTERIOR, seed=1)

    def flip(factor):
        return 1 - np.minimum(1, keep / factor)

    def wrong(factor):
        return np.mean(
            np.where(LABELS.true != SECOND, flip(factor), 0) + (LABELS.true != FIRST) * (1 - flip(factor))
        )

    factor = brentq(lambda factor: wrong(factor) - rate, 1e-6, 1e6)
    assert labels.wrong_rate == pytest.approx(rate, abs=0.015)
    assert np.all((labels.given == FIRST) | (labels.given == SECOND))
    assert law_p(labels.given == SECOND, flip(factor)) > ALPHA
    assert law_p_or_zero(labels.given == SECOND, by_text(kind, rate)) < POWER


def test_plc_code_flips_certain_examples_too():
    # Type I's published factor 1.43 keeps 1 / 1.43 = 70% of what the classifier is certain of.
    certain = np.eye(C)[LABELS.true]
    assert bias.pmd_noise_plc(LABELS, 1, 0.3, certain, seed=0).wrong_rate == pytest.approx(0.3, abs=0.01)
    with pytest.raises(UsageError, match="expected 0 to 0, what this posterior allows"):
        bias.pmd_noise(LABELS, 1, 0.3, certain, seed=0)


def test_flips_more_near_the_boundary():
    flipped = bias.pmd_noise(LABELS, 2, 0.35, POSTERIOR, seed=0).is_wrong
    assert flipped[np.median(MARGIN) > MARGIN].mean() > 2 * flipped[np.median(MARGIN) < MARGIN].mean()


def test_labels_that_are_not_the_first_choice_stay():
    labels = bias.pmd_noise(LABELS, 1, 0.6, POSTERIOR, seed=0)
    assert np.any(LABELS.true != FIRST)
    assert not labels.is_wrong[LABELS.true != FIRST].any()


def test_of_equally_likely_classes_the_lower_index_comes_first():
    labels = bias.BiasedLabels.clean(np.zeros(200, int), 3)
    noisy = bias.pmd_noise(labels, 2, 0.5, np.full((200, 3), 1 / 3), seed=0)
    assert set(noisy.given.tolist()) == {0, 1}


def test_hybrid_lays_independent_noise_over():
    labels = bias.apply("pmd1_35+uniform_30", LABELS, "cifar10", 0, posterior=POSTERIOR)
    # A flip back to the true class has probability 0.3 / 9.
    expected = 0.35 * (1 - 0.3 / 9) + 0.65 * 0.3
    assert labels.wrong_rate == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("noise", [bias.pmd_noise, bias.pmd_noise_plc])
@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (POSTERIOR[:-1], "19999 rows, expected one for each"),
        (POSTERIOR[:, :-1], r"shape \(20000, 9\), expected"),
        (POSTERIOR[:, 0], "shape"),
        (POSTERIOR * 2, "20000 rows are not distributions, first row 0"),
        (np.log(POSTERIOR), "not the logits"),
        (
            np.where(np.arange(20000)[:, None] == 7, np.nan, POSTERIOR),
            "1 rows are not distributions, first row 7",
        ),
    ],
)
def test_refuses_what_is_no_posterior(noise, posterior, message):
    with pytest.raises(UsageError, match=message):
        noise(LABELS, 1, 0.35, posterior, seed=0)


@pytest.mark.parametrize("noise", [bias.pmd_noise, bias.pmd_noise_plc])
@pytest.mark.parametrize(
    ("kind", "rate", "message"), [(4, 0.3, "expected 1, 2 or 3"), (1, 1.2, r"in \[0, 1\]")]
)
def test_refuses_unknown_types_and_rates(noise, kind, rate, message):
    with pytest.raises(UsageError, match=message):
        noise(LABELS, kind, rate, POSTERIOR, seed=0)
