"""The methods that Tables 2, 3, 4 and 11 compare with, each against its formula written out by hand."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_train import small_config

from cmwnet_jax.core import mixing
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS, beta_mixture, lrt, m_correction
from cmwnet_jax.methods.base import EpochStart, Parts
from cmwnet_jax.methods.label_plans import corrected_labels
from cmwnet_jax.methods.measure import Measured, measured
from cmwnet_jax.train.check_config import check_config


def linear(variables, images, train=True):
    """A classifier of three classes for vectors of two."""
    return images @ variables["params"]


MODEL = SimpleNamespace(apply=linear)


@functools.cache
def digits():
    return load_data(small_config())


def built(method, **fields):
    """(data, method) on one device; nothing is compiled."""
    config = small_config(method=method, **fields)
    check_config(config)
    data = digits()
    classes = MetaClasses.of_counts(data.biased.class_counts, 1)
    return data, METHODS[method].build(Parts(config, data, MODEL, None, None, 1, classes))


def cross_entropy(p, target):
    return -sum(t * np.log(q) for t, q in zip(target, p, strict=True))


def found_on(posterior, labels):
    """What a classifier with these probabilities is measured to be."""
    posterior = np.asarray(posterior, np.float64)
    losses = np.array([-np.log(p[y]) for p, y in zip(posterior, labels, strict=True)])
    return Measured(losses, posterior.argmax(axis=1), posterior.max(axis=1), None, None)


def test_labels_are_corrected_where_the_likelihood_ratio_says_so():
    posterior = [[0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]]
    labels = np.array([1, 1, 2, 1, 0])  # ratios 1/2, 1/6, 1, 4/5 and 1/8
    for ratio, expected in ((0.1, [1, 1, 2, 1, 0]), (0.15, [1, 1, 2, 1, 1]), (0.3, [1, 0, 2, 1, 1]),
                            (0.51, [0, 0, 2, 1, 1]), (0.9, [0, 0, 2, 0, 1])):  # fmt: skip
        found = corrected_labels(found_on(posterior, labels), labels, ratio)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)


def followed(name, classifiers):
    """[(labels, threshold)] at the start of the epochs after the warm-up.

    The classifier of each such epoch is given as row -> p(label) / p(another class), with all others sure.
    """
    data, method = built(name)
    given = data.biased.given
    first = method.initial(lambda key: {"params": jnp.zeros((2, 3))}, None, None)["weight_params"]
    np.testing.assert_array_equal(first["labels"], given)
    state = SimpleNamespace(params=(), model_state={}, weight_params=jax.tree.map(lambda x: x[None], first))
    ends = []
    for number, ratios in enumerate([None, None, *classifiers]):
        current = np.asarray(state.weight_params["labels"][0])

        def measure(split, variables, ratios=ratios, current=current):
            assert split == "train"
            np.testing.assert_array_equal(variables["labels"][0], current)
            posterior = np.full((len(current), 10), 0.01)
            posterior[np.arange(len(current)), current] = 0.91
            for row, ratio in ratios.items():
                posterior[row, current[row]] = 0.92 * ratio / (1 + ratio)
                posterior[row, (current[row] + 1) % 10] = 0.92 / (1 + ratio)
            return found_on(posterior, current)

        plan = method.plan_epoch(EpochStart(number, state, measure, None, None, None))
        if ratios is None:
            assert plan == ({}, {})
            continue
        state.weight_params = plan.state["weight_params"]
        assert state.weight_params["labels"].dtype == jnp.int32
        ends.append([np.asarray(x[0]) for x in (state.weight_params["labels"], state.weight_params["ratio"])])
    left = method.leave(SimpleNamespace(weight_params=jax.tree.map(lambda x: x[0], state.weight_params)))
    assert left["corrected.npz"]["num_changed"] == np.sum(ends[-1][0] != given)
    assert data.biased.given is given
    return [np.flatnonzero(labels != given).tolist() for labels, _ in ends], [float(end[1]) for end in ends]


def test_plcs_threshold_becomes_looser_by_steps():
    """From .3 on, after each epoch that changes fewer than .1 per cent of 635 labels: none."""
    changed, ratios = followed("plc", [{}, {0: 0.35}, {1: 0.45}, {1: 0.45, 2: 0.55}, *[{}] * 5])
    assert changed == [[], [0], [0], *[[0, 1]] * 6]
    np.testing.assert_allclose(ratios, [0.4, 0.4, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9], rtol=1e-6)


def test_lrts_threshold_becomes_stricter_each_epoch():
    changed, ratios = followed("lrt", [{0: 0.8, 1: 0.83}, {1: 0.81}, {1: 0.78}])
    assert changed == [[0], [0], [0, 1]]
    np.testing.assert_allclose(ratios, [1 / (1 / 0.82 + 0.02 * epochs) for epochs in (1, 2, 3)], rtol=1e-6)


def test_the_current_labels_are_what_a_classifier_is_measured_against():
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 2)), "label": jnp.zeros(4, int), "row": jnp.array([3, 0, 1, 2])}
    params = rng.normal(size=(2, 3))
    labels = jnp.array([1, 2, 0, 1])
    method = built("plc")[1]
    for variables, label in (({}, batch["label"]), ({"labels": labels}, labels[batch["row"]])):
        found = method.measure({"params": params, **variables}, batch)
        for one, other in zip(found, measured(batch["image"] @ params, label), strict=True):
            np.testing.assert_array_equal(one, other)


def test_lrts_second_loss_is_of_the_recorded_predictions(x64):
    rng = np.random.default_rng(0)
    images, params, labels = rng.normal(size=(4, 2)), rng.normal(size=(2, 3)), np.array([0, 2, 1, 1])
    memory = np.vstack([rng.dirichlet(np.ones(3), 3), np.zeros((1, 3))])  # the last has never been visited
    p = np.exp(images @ params)
    p /= p.sum(axis=1, keepdims=True)
    first = np.array([cross_entropy(p[i], np.eye(3)[labels[i]]) for i in range(4)])
    second = np.array([cross_entropy(p[i], memory[i]) for i in range(4)])
    parts = SimpleNamespace(model=MODEL)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels), "memory": jnp.asarray(memory)}
    out, _ = lrt.recording_objective(parts)(params, {}, batch, None)
    np.testing.assert_allclose(out.terms, first, atol=1e-12)
    np.testing.assert_allclose(out.aux, p, atol=1e-12)
    out, _ = lrt.retroactive_objective(parts, 0.7)(params, {}, batch, None)
    np.testing.assert_allclose(out.terms, first + 0.7 * second, atol=1e-12)
    np.testing.assert_allclose(out.losses, first, atol=1e-12)
    np.testing.assert_array_equal(out.aux, memory)


def test_the_beta_mixture_is_fitted_by_em_with_moments():
    """Densities as SciPy's; a round by a loop; and the mixture that a sample is drawn from is found."""
    rng = np.random.default_rng(0)
    wrong = rng.random(4000) < 0.4
    values = np.where(wrong, rng.beta(16, 4, 4000), rng.beta(2, 18, 4000)).clip(1e-4, 1 - 1e-4)
    mixture = beta_mixture.fit(values)
    np.testing.assert_allclose(mixture.share, [0.6, 0.4], atol=0.03)
    means = mixture.alpha / (mixture.alpha + mixture.beta)
    np.testing.assert_allclose(means, [0.1, 0.8], atol=0.02)
    joint = [
        share * scipy.stats.beta.pdf(values, a, b)
        for share, a, b in zip(mixture.share, mixture.alpha, mixture.beta, strict=True)
    ]
    np.testing.assert_allclose(mixture.posterior(values), joint / np.sum(joint, axis=0), atol=1e-10)

    def likelihood(mixture):
        return np.sum(np.logaddexp.reduce(mixture.log_joint(values), axis=0))

    assert likelihood(mixture) > likelihood(beta_mixture.START) + 500
    few = values[:5]
    once = beta_mixture._moments(few, beta_mixture.START.posterior(few))
    for k in range(2):
        weights = [beta_mixture.START.posterior(few[i : i + 1])[k, 0] for i in range(5)]
        mean = sum(w * x for w, x in zip(weights, few, strict=True)) / sum(weights)
        variance = sum(w * (x - mean) ** 2 for w, x in zip(weights, few, strict=True)) / sum(weights)
        alpha = mean * (mean * (1 - mean) / variance - 1)
        np.testing.assert_allclose(once.alpha[k], alpha, rtol=1e-10)
        np.testing.assert_allclose(once.beta[k], alpha * (1 - mean) / mean, rtol=1e-10)
        np.testing.assert_allclose(once.share[k], sum(weights) / 5, rtol=1e-10)


@pytest.mark.parametrize("losses", [np.zeros(50), np.ones(3), np.r_[np.zeros(99), 1e6], np.r_[0.0, 1.0]])
def test_odd_losses_make_no_odd_mixture(losses):
    found = m_correction.fitted(losses)
    assert np.isfinite(found["wrong"]).all() and found["wrong"].shape == (100,)
    weights = m_correction.probability_right(found, jnp.asarray(losses, jnp.float32), None)
    assert np.all((weights >= 0) & (weights <= 1))


def test_higher_losses_are_never_likelier_right():
    """At the ends too, where the broader density is the higher one: here that of wrong labels."""
    mixture = beta_mixture.BetaMixture(np.array([20.0, 1.2]), np.array([40.0, 0.8]), np.array([0.5, 0.5]))
    raw = mixture.posterior(beta_mixture.GRID)[1]
    assert raw[0] > 0.9  # and .11 at its lowest
    wrong = beta_mixture.wrong_by_value(mixture)
    assert np.all(np.diff(wrong) >= 0) and wrong[0] < 0.12 and wrong[-1] > 0.9
    rng = np.random.default_rng(0)
    losses = np.r_[rng.gamma(2, 0.2, 700), rng.normal(4, 1, 300)]
    found = m_correction.fitted(losses)
    weights = m_correction.probability_right(found, jnp.asarray(np.sort(losses)), None)
    assert np.all(np.diff(weights) <= 0) and weights[0] > 0.9 and weights[-1] < 0.1


def test_m_corrections_loss(x64, monkeypatch):
    """Hard bootstrapping of mixed images and the class balance, by a loop."""
    rng = np.random.default_rng(0)
    images, params, labels = rng.normal(size=(6, 2)), rng.normal(size=(2, 3)), np.array([0, 2, 1, 1, 0, 2])
    parts = SimpleNamespace(model=MODEL, axis_name=None)
    objective = m_correction.bootstrap_objective(parts, mixup_alpha=32.0, prior=0.7)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    share, partner = 0.6, np.array([3, 1, 0, 5, 4, 2])
    fixed = mixing.Mixture(jnp.asarray(share), jnp.asarray(partner))
    monkeypatch.setattr(m_correction, "draw_mixture", lambda rng, n, alpha: fixed)
    out, _ = objective(params, {}, batch, jax.random.key(3))

    def probabilities(x):
        return np.exp(x @ params) / np.sum(np.exp(x @ params))

    seen = [cross_entropy(probabilities(images[i]), np.eye(3)[labels[i]]) for i in range(6)]
    np.testing.assert_allclose(out.losses, np.r_[seen, np.array(seen)[partner]], atol=1e-12)
    mixed = [probabilities(share * images[i] + (1 - share) * images[partner[i]]) for i in range(6)]
    weights, total = rng.random(6), 0.0
    for i, p in enumerate(mixed):
        for j, part in ((i, share), (partner[i], 1 - share)):
            predicted = np.argmax(probabilities(images[j]))
            given, soft = (cross_entropy(p, np.eye(3)[label]) for label in (labels[j], predicted))
            total += part * (weights[j] * given + (1 - weights[j]) * soft) / 6
    total += 0.7 * sum(np.log(1 / 3 / q) / 3 for q in np.mean(mixed, axis=0))
    found = out.base + np.sum(np.r_[weights, weights[partner]] * out.terms) / 12
    np.testing.assert_allclose(found, total, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "plc", "warmup_epochs": 0}, "warmup_epochs is 0, expected at least 1 with plc"),
        ({"method": "plc", "plc__last_ratio": 0.2}, "plc.last_ratio is 0.2, expected at least plc.first_ratio"),
        ({"method": "plc", "plc__first_ratio": 1.0}, r"plc.first_ratio is 1.0, expected a number in \(0, 1\)"),
        ({"method": "lrt", "lrt__retroactive": 0.0}, "lrt would be plain training"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(UsageError, match=message):
        check_config(small_config(**fields))
