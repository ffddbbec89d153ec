"""The methods that Tables 2, 3, 4 and 11 compare with, each against its formula written out by hand."""

import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_train import interrupt, small_config

from cmwnet_jax.core import mixing
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS, beta_mixture, dividemix, lrt, m_correction, mixmatch
from cmwnet_jax.methods.base import EpochStart, Parts
from cmwnet_jax.methods.label_plans import corrected_labels, corrected_objective
from cmwnet_jax.methods.measure import Measured, measured
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior


def started(number, state, measure):
    """The start of an epoch, on one device."""
    return EpochStart(number, state, measure, None, None, lambda tree: jax.tree.map(lambda x: x[None], tree))


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
    steps = config.num_epochs * (len(data.biased.ids) // config.batch_size)
    return data, METHODS[method].build(Parts(config, data, MODEL, None, None, steps, classes))


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

        plan = method.plan_epoch(started(number, state, measure))
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
    out, _ = jax.jit(lrt.recording_objective(parts))(params, {}, batch, None)
    np.testing.assert_allclose(out.terms, first, atol=1e-12)
    np.testing.assert_allclose(out.aux, p, atol=1e-12)
    out, _ = jax.jit(lrt.retroactive_objective(parts, 0.7))(params, {}, batch, None)
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
    out, _ = jax.jit(objective)(params, {}, batch, jax.random.key(3))

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


def test_the_gaussian_mixture_finds_the_lower_losses():
    """As the closed posterior of the two normal distributions that they are drawn from, at any scale."""
    rng = np.random.default_rng(0)
    is_wrong = rng.random(5000) < 0.4
    losses = np.where(is_wrong, rng.normal(3, 0.5, 5000), rng.normal(1, 0.3, 5000))
    density = 0.6 * scipy.stats.norm.pdf(losses, 1, 0.3), 0.4 * scipy.stats.norm.pdf(losses, 3, 0.5)
    right = dividemix.probability_right(losses, seed=3)
    assert np.mean(np.abs(right - density[0] / np.sum(density, axis=0))) < 0.005
    np.testing.assert_allclose(dividemix.probability_right(100 * losses - 7, seed=3), right, atol=1e-6)
    assert np.isfinite(dividemix.probability_right(np.ones(9), seed=3)).all()


def test_both_parts_have_an_example():
    for right, labelled, unlabelled in (
        ([0.9, 0.2, 0.6], [0, 2], [1]),
        ([0.9, 0.7, 0.6], [0, 1], [2]),
        ([0.1, 0.3, 0.2], [1], [0, 2]),
        ([0.5, 0.5, 0.5], [0], [1, 2]),
    ):
        found = dividemix.divided(np.array(right), 0.5)
        np.testing.assert_array_equal(found[0], labelled)
        np.testing.assert_array_equal(found[1], unlabelled)


def softmax(logits):
    return np.exp(logits) / np.sum(np.exp(logits))


def sharp(p):
    return p**2 / np.sum(p**2)


def test_mixmatch_of_two_networks(x64, monkeypatch):
    """Co-refinement, co-guessing, mixup and the three losses, by loops over networks and examples."""
    rng = np.random.default_rng(0)
    n, share, partner, views = 3, 0.7, rng.permutation(12), ("image", "other")
    fixed = mixing.Mixture(jnp.asarray(share), jnp.asarray(partner))
    monkeypatch.setattr(mixmatch, "draw_mixture", lambda rng, n, alpha, keep_larger: fixed)
    fields = SimpleNamespace(mixup_alpha=4.0, temperature=0.5)
    parts = SimpleNamespace(model=MODEL, axis_name=None, config=SimpleNamespace(dividemix=fields))
    params, right, strength = rng.normal(size=(2, 2, 3)), rng.random((2, n)), 1.7
    labelled, unlabelled = (
        {**{view: rng.normal(size=(2, n, 2)) for view in views}, "label": rng.integers(3, size=(2, n))}
        for _ in range(2)
    )
    total, terms = 0.0, []
    for k in range(2):
        images = [half[view][k, i] for half in (labelled, unlabelled) for view in views for i in range(n)]
        refined, guessed = [], []
        for i in range(n):
            own = sum(softmax(labelled[view][k, i] @ params[k]) for view in views) / 2
            given = np.eye(3)[labelled["label"][k, i]]
            refined.append(sharp(right[k, i] * given + (1 - right[k, i]) * own))
            four = [softmax(unlabelled[view][k, i] @ params[j]) for j in range(2) for view in views]
            guessed.append(sharp(sum(four) / 4))
        targets = [*refined, *refined, *guessed, *guessed]
        predicted, mixed = [], []
        for i, j in enumerate(partner):
            predicted.append(softmax((share * images[i] + (1 - share) * images[j]) @ params[k]))
            mixed.append(share * targets[i] + (1 - share) * targets[j])
        first = [cross_entropy(predicted[i], mixed[i]) for i in range(2 * n)]
        second = [np.mean((predicted[i] - mixed[i]) ** 2) for i in range(2 * n, 4 * n)]
        third = sum(np.log(1 / 3 / q) / 3 for q in np.mean(predicted, axis=0))
        total += np.mean(first) + strength * np.mean(second) + third
        terms += first
    batch = {"labelled": labelled, "unlabelled": unlabelled, "right": right, "strength": np.array(strength)}
    objective = jax.jit(mixmatch.mixmatch_objective(parts))
    out, _ = objective(params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(out.losses, terms, atol=1e-12)
    np.testing.assert_allclose(out.base + np.mean(out.terms), total, atol=1e-12)


def test_dividemixs_warm_up_and_test(x64):
    """Each network has its own batch; with the penalty, their negative entropies; tested is their mean."""
    rng = np.random.default_rng(0)
    images, params = rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 2, 3))
    labels = rng.integers(3, size=(2, 4))
    parts = SimpleNamespace(model=MODEL)
    p = [[softmax(x @ params[k]) for x in images[k]] for k in range(2)]
    given = [[cross_entropy(p[k][i], np.eye(3)[labels[k, i]]) for i in range(4)] for k in range(2)]
    entropy = [[cross_entropy(q, q) for q in p[k]] for k in range(2)]
    for penalty in (0.0, 0.8):
        objective = jax.jit(mixmatch.warmup_objective(parts, penalty))
        out, _ = objective(params, {}, {"image": images, "label": jnp.asarray(labels)}, jax.random.key(0))
        expected = np.sum(np.mean(given, axis=1)) - penalty * np.sum(np.mean(entropy, axis=1))
        np.testing.assert_allclose(out.base + np.mean(out.terms), expected, atol=1e-12)
    batch = {"image": images[0], "label": jnp.asarray(labels[0])}
    found = jax.jit(mixmatch.measure_both(parts))({"params": jnp.asarray(params)}, batch)
    for i, x in enumerate(images[0]):
        both = [softmax(x @ params[k]) for k in range(2)]
        own = [cross_entropy(q, np.eye(3)[labels[0, i]]) for q in both]
        np.testing.assert_allclose(found.network_losses[i], own, atol=1e-12)
        np.testing.assert_allclose(found.confidence[i], np.mean(both, axis=0).max(), atol=1e-12)
        assert found.predictions[i] == np.argmax(np.mean(both, axis=0))


def test_each_network_is_divided_for_by_the_other():
    """Network 1 doubts the first 100 labels, network 2 the last 200."""
    data, method = built("dividemix")
    given, n = data.biased.given, len(data.biased.given)
    losses = np.random.default_rng(0).uniform(0.1, 0.11, (n, 2))
    losses[:100, 0] += 2
    losses[-200:, 1] += 2
    found = mixmatch.MeasuredPair(losses.mean(axis=1), (given + 1) % 10, np.full(n, 0.75), None, None, losses)
    first = method.initial(lambda key: {"params": jnp.zeros((2, 3))}, jax.random.key(0), None)
    assert first["params"].shape == (2, 2, 3)
    weight_params = jax.tree.map(lambda x: x[None], first["weight_params"])
    state = SimpleNamespace(params=(), model_state={}, weight_params=weight_params)
    assert method.plan_epoch(started(1, state, None)) == ({}, {})
    plan = method.plan_epoch(started(2, state, lambda split, variables: found))
    for k, rows in {1: np.arange(n - 200, n), 2: np.arange(100)}.items():  # by the other's losses
        labelled, unlabelled = (plan.selections[f"{half}_{k}"] for half in ("labelled", "unlabelled"))
        np.testing.assert_array_equal(np.unique(unlabelled.rows), rows)
        assert len(labelled.rows) == len(unlabelled.rows) == n // 48 * 48
        assert not np.intersect1d(labelled.rows, rows).size
        for chosen in (labelled, unlabelled):
            np.testing.assert_array_equal(chosen.labels, given[chosen.rows])
    new = jax.tree.map(lambda x: np.asarray(x[0]), plan.state["weight_params"])
    np.testing.assert_array_equal(new["right"] < 0.5, [np.arange(n) < 100, np.arange(n) >= n - 200])
    np.testing.assert_allclose(new["losses"], losses.T, rtol=1e-6)
    numbers = method.describe_plan(plan.selections)
    assert numbers["labelled_percent"] == pytest.approx(100 * (n - 200) / n)
    left = method.leave(SimpleNamespace(weight_params=new))["corrected.npz"]
    assert left["num_changed"] == np.sum(np.mean(new["right"], axis=0) <= 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "dividemix", "warmup_epochs": 0}, "warmup_epochs is 0, expected at least 1 with dividemix"),
        ({"method": "plc", "warmup_epochs": 0}, "warmup_epochs is 0, expected at least 1 with plc"),
        ({"method": "plc", "plc__last_ratio": 0.2}, "plc.last_ratio is 0.2, expected at least plc.first_ratio"),
        ({"method": "plc", "plc__first_ratio": 1.0}, r"plc.first_ratio is 1.0, expected a number in \(0, 1\)"),
        ({"method": "lrt", "lrt__retroactive": 0.0}, "lrt would be plain training"),
    ],
)
def test_mistakes(fields, message):
    with pytest.raises(UsageError, match=message):
        check_config(small_config(**fields))


def numbers_of(run):
    """What a run has measured, without times, and what it has left."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]
    arrays = {}
    for name in ("weights", "corrected"):
        if (run / f"{name}.npz").exists():
            with np.load(run / f"{name}.npz") as file:
                arrays |= {f"{name}/{key}": file[key] for key in file}
    return measured, arrays


@pytest.mark.whole_runs
@pytest.mark.parametrize("method", ["plc", "lrt", "m_correction", "dividemix"])
def test_a_run_that_stops_inside_an_epoch_goes_on_as_if_it_had_not(method, tmp_path, monkeypatch):
    """With labels and divisions of that epoch, which the state and the checkpoint hold."""
    config = small_config(
        method=method, num_epochs=2, warmup_epochs=1, chunk_steps=13, checkpoint__every_minutes=1e-9,
        data__bias="symmetric_40",
    )  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(config, whole)
    interrupt(config, run, monkeypatch, steps_done=13)
    train(config, run)
    (expected, expected_arrays), (found, arrays) = numbers_of(whole), numbers_of(run)
    assert found == expected
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    if method != "m_correction":
        assert arrays["corrected/num_changed_rightly"] > 20
    if method == "dividemix":
        with pytest.raises(UsageError, match="a run of dividemix, which trains several classifiers"):
            save_posterior(str(whole), str(tmp_path / "p.npy"), of_given_labels=True)


@pytest.mark.parametrize("method", ["plc", "lrt"])
def test_the_reported_losses_are_those_of_the_given_labels(method):
    """Else the loss history would take a corrected label for a right one."""
    rng = np.random.default_rng(0)
    images, weights = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
    given, current = np.array([0, 1, 2, 0]), np.array([1, 1, 0, 2])
    parts = SimpleNamespace(model=SimpleNamespace(apply=linear))
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(current), "given": jnp.asarray(given)}
    if method == "plc":
        objective = corrected_objective(parts)
    else:
        objective = lrt.retroactive_objective(parts, 1.0)
        batch["memory"] = jnp.zeros((4, 3))
    out, _ = objective(jnp.asarray(weights), {}, batch, jax.random.key(0))
    for found, labels in ((out.losses, given), (out.terms, current)):
        of = [cross_entropy(softmax(x @ weights), np.eye(3)[c]) for x, c in zip(images, labels, strict=True)]
        np.testing.assert_allclose(found, of, atol=1e-5)
