"""Partial labels: PRODEN by hand in float64, its method and files, and the labels of the second stage."""

import functools
import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bias_laws import clean
from problems import (
    CLASSES,
    N,
    apply,
    batch,
    flat,
    init_model_state,
    init_params,
    meta_classes,
)
from test_train import ROOT, small_config

import cmwnet_jax as cmw
from cmwnet_jax import sweep
from cmwnet_jax.core.partial_labels import proden_objective, uniform_confidences, updated_confidences
from cmwnet_jax.core.table import Table, remembering
from cmwnet_jax.data import bias
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train import loop
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train

TABLE13 = runpy.run_path(str(ROOT / "experiments" / "table13_partial_labels.py"))
ROWS = 3 * N


def candidate_sets(size=ROWS, classes=CLASSES):
    rng = np.random.default_rng(8)
    candidates = rng.random((size, classes)) < 0.5
    candidates[np.arange(size), rng.integers(classes, size=size)] = True
    return candidates


def numbered(seed, size):
    rows = np.random.default_rng(seed).permutation(ROWS)[:size]
    return batch(seed, size) | {"row": jnp.asarray(rows, jnp.int32)}


def make(axis_name=None):
    optimizer = optax.sgd(0.1, momentum=0.9)
    model = functools.partial(apply, axis_name=axis_name)
    objective = proden_objective(model, meta_classes())
    step = cmw.make_weighted_step(objective=objective, optimizer=optimizer, axis_name=axis_name)
    confidences = candidate_sets() / candidate_sets().sum(axis=1, keepdims=True)
    state = cmw.MetaState.create(
        params=init_params(jax.random.key(1)),
        model_state=init_model_state(),
        optimizer=optimizer,
        rng=jax.random.key(2),
        memory=Table.full(jnp.asarray(confidences)),
    )
    return remembering(step, axis_name), state


@pytest.mark.usefixtures("x64")
def test_three_steps_are_progressive_identification():
    """Losses -sum_c q log p, their mean's gradient with q held fixed, and q = p / sum p on the candidates."""
    step, state = make()
    step, candidates = jax.jit(step), candidate_sets()
    table = candidates / candidates.sum(axis=1, keepdims=True)
    params, momentum = flat(state.params), 0.0
    _, unflatten = jax.flatten_util.ravel_pytree(state.params)

    @jax.jit
    def log_p(params, images):
        variables = {"params": params, **init_model_state()}
        logits = apply(variables, images, mutable=(), rngs={})[0]
        return logits - jnp.log(jnp.sum(jnp.exp(logits), axis=1, keepdims=True))

    gradient_of = jax.jit(jax.grad(lambda p, q, x: -jnp.sum(q * log_p(p, x)) / N))
    for seed in range(3):
        examples = numbered(seed, N)
        rows, images = np.asarray(examples["row"]), examples["image"]
        fixed = jnp.asarray(table[rows])
        losses = -np.sum(table[rows] * np.asarray(log_p(unflatten(params), images)), axis=1)
        gradient = flat(gradient_of(unflatten(params), fixed, images))
        inside = candidates[rows] * np.exp(np.asarray(log_p(unflatten(params), images)))
        table[rows] = inside / inside.sum(axis=1, keepdims=True)
        momentum = 0.9 * momentum + gradient
        params = params - 0.1 * momentum
        state, metrics = step(state, examples)
        np.testing.assert_allclose(metrics["losses"], losses, rtol=0, atol=1e-12)
        np.testing.assert_allclose(flat(state.params), params, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.memory.values, table, rtol=0, atol=1e-12)
        assert "aux" not in metrics
    assert np.ptp(table[candidates]) > 0.5


def test_confidences_stay_defined_and_candidates_stay_candidates():
    """Where float32 has p = 0 for all candidates, or for one beside another."""
    confidences = jnp.asarray([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], jnp.float32)
    logits = jnp.asarray([[0.0, 1.0, 500.0], [400.0, 0.0, 0.0]], jnp.float32)
    assert jax.nn.softmax(logits)[0, 0] == jax.nn.softmax(logits)[1, 1] == 0
    new = np.asarray(updated_confidences(confidences, logits))
    np.testing.assert_allclose(new[0], [1 / (1 + np.e), np.e / (1 + np.e), 0], rtol=1e-6)
    np.testing.assert_array_equal(new > 0, np.asarray(confidences) > 0)
    np.testing.assert_allclose(new.sum(axis=1), 1, rtol=1e-6)


def test_confidences_start_uniform_over_the_candidates():
    start = uniform_confidences(np.array([[True, False, True, True], [False, True, False, False]]))
    np.testing.assert_array_equal(start, np.array([[1, 0, 1, 1], [0, 3, 0, 0]], np.float32) / np.float32(3))
    with pytest.raises(UsageError, match="row 1 has none, expected at least one candidate"):
        uniform_confidences(np.array([[True], [False]]))


@pytest.mark.parametrize("name", ["partial_30", "partial_pair_30", "long_tail_10+partial_30"])
def test_the_label_shown_is_a_candidate_at_random(name):
    labels = bias.apply(name, clean(), "cifar10", 0)
    rows = np.arange(len(labels.ids))
    assert labels.candidates.shape == (len(rows), 10)
    assert labels.candidates[rows, labels.true].all() and labels.candidates[rows, labels.given].all()
    expected = np.mean(1 - 1 / labels.candidates.sum(axis=1))
    assert labels.wrong_rate == pytest.approx(expected, abs=4 * np.sqrt(0.25 / len(rows)))
    some = labels.take(rows[::3])
    np.testing.assert_array_equal(some.candidates, labels.candidates[::3])


def test_labels_from_confidences_are_the_most_likely_classes():
    """By id, also after the classes were thinned; the true labels are as before."""
    confidences = np.random.default_rng(0).dirichlet(np.ones(10), 5000)
    labels = bias.apply("long_tail_10+confidences", clean(), "cifar10", 0, confidences=confidences)
    np.testing.assert_array_equal(labels.given, confidences.argmax(axis=1)[labels.ids])
    np.testing.assert_array_equal(labels.true, clean().true[labels.ids])


def _confidences(change):
    values = np.full((5000, 10), 0.1)
    return change(values)


def _with_row(row):
    def change(values):
        values[7] = row
        return values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, :9], r"confidences: shape \(5000, 9\), expected \[examples .*, 10 classes\]"),
        (lambda v: v[0], r"confidences: shape \(10,\), expected"),
        (lambda v: v[:4999], "confidences: 4999 rows, expected one for each example"),
        (_with_row(0.2), "confidences: 1 rows are not distributions, first row 7: expected .* sum to one"),
        (_with_row([1.5, -0.5] + [0] * 8), "1 rows are not distributions, first row 7"),
        (_with_row(np.nan), "1 rows are not distributions, first row 7"),
    ],
)
def test_confidences_that_are_none(change, message):
    with pytest.raises(UsageError, match=message):
        bias.most_confident(clean(), _confidences(change))


def test_candidates_without_the_true_label():
    labels = clean()
    candidates = bias.binomial_candidates(labels, 0.3, 0)
    candidates[5, labels.true[5]] = False
    with pytest.raises(UsageError, match="the true label of 1 examples is not among them, first id 5"):
        bias.with_candidates(labels, candidates, 0)
    with pytest.raises(UsageError, match=r"shape \(5000, 9\) of bool, expected \(5000, 10\) of bool"):
        bias.with_candidates(labels, candidates[:, :9], 0)
    with pytest.raises(UsageError, match="with no noise before them"):
        bias.apply("symmetric_40+partial_10", labels, "cifar10", 0)
    with pytest.raises(UsageError, match="where 'symmetric_40' follows partial labels: put these last"):
        bias.apply("partial_10+symmetric_40", labels, "cifar10", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "cmwnet", "data__bias": "partial_10"},
            "method is 'cmwnet', which takes one label per example.*train with method 'proden' first",
        ),
        (
            {"method": "proden", "data__bias": "symmetric_20"},
            "method is 'proden', which learns from candidate sets.*set data.bias to e.g. 'partial_10'",
        ),
        ({"data__bias": "confidences"}, "data.confidences is '', expected an .npy file.*method proden"),
        ({"data__bias": "partial_101"}, "which is 101 per cent, expected 0 to 100"),
    ],
)
def test_methods_and_biases_that_do_not_go_together(changes, message):
    config = small_config(**changes)
    with pytest.raises(UsageError, match=message):
        build_recipe(config, load_data(config))


def small(arg):
    """Table 13's config of both stages, of a size for tests."""
    config = TABLE13["get_config"](arg)
    changes = {"name": "digits", "path": "device"}
    config.data.update(changes)
    config.model.hidden = (16,)
    config.batch_size = config.meta_set.batch_size = 48
    config.optimizer.learning_rate = 0.05
    return config


def test_the_sweep_trains_both_stages_once(tmp_path, monkeypatch):
    """Stage one is shared, its confidences are its table, and stage two's labels are their largest."""
    cells = ["fashion_mnist,0.3,cmwnet", "fashion_mnist,0.3,proden"]
    options = {"only": "*", "seeds": 1, "args": "epochs1=3,epochs2=2"}
    runs = sweep.plan(cells, tmp_path, shard="1/1", get_first_stage=TABLE13["get_first_stage"], **options)
    trained = []
    monkeypatch.setattr(loop, "train", lambda config, folder: trained.append(folder) or train(config, folder))
    assert sweep.sweep(small, runs) == {}
    root = tmp_path / "fashion_mnist" / "0.3"
    assert trained == [root / method / "seed0" for method in ("proden", "cmwnet")]

    confidences = np.load(root / "proden" / "seed0" / "confidences.npy")
    stage1, stage2 = (np.load(root / method / "seed0" / "bias.npz") for method in ("proden", "cmwnet"))
    np.testing.assert_array_equal(confidences > 0, stage1["candidates"])
    np.testing.assert_allclose(confidences.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(stage2["given"], confidences.argmax(axis=1))
    np.testing.assert_array_equal(stage2["true"], stage1["true"])
    first, second = (
        json.loads((root / method / "seed0" / "result.json").read_text()) for method in ("proden", "cmwnet")
    )
    # Identified, where stage one showed a candidate at random.
    assert second["wrong_rate"] < 0.5 * first["wrong_rate"]
    assert first["transductive_accuracy_percent"] == pytest.approx(100 * (1 - second["wrong_rate"]))
    assert "transductive_accuracy_percent" not in second
    lines = (root / "cmwnet" / "seed0" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["weight_auc"] is not None

    trained.clear()
    assert sweep.sweep(small, runs) == {}
    assert trained == []
    (root / "proden" / "seed0" / "result.json").unlink()
    assert sweep.sweep(small, runs[:1]) == {}  # what is done needs its first stage no more
    assert trained == []


def test_shards_keep_what_shares_a_stage_together(tmp_path):
    options = {"only": "*", "seeds": 2, "args": "", "get_first_stage": TABLE13["get_first_stage"]}
    cells = TABLE13["get_cells"]()
    whole = sweep.plan(cells, tmp_path, shard="1/1", **options)
    parts = [sweep.plan(cells, tmp_path, shard=f"{i}/3", **options) for i in (1, 2, 3)]
    assert sorted(run.arg for part in parts for run in part) == sorted(run.arg for run in whole)
    folders = [{(run.first_stage or run).folder for run in part} for part in parts]
    assert not (folders[0] & folders[1] or folders[0] & folders[2] or folders[1] & folders[2])
    alone = sweep.plan(["a", "b", "c"], tmp_path, only="*", seeds=1, args="", shard="2/2")
    assert [run.arg for run in alone] == ["b,seed=0"]
    with pytest.raises(UsageError, match="expected a path without commas"):
        sweep.plan(cells, tmp_path / "a,b", shard="1/1", **options)


def test_every_cell_is_a_config():
    for cell in TABLE13["get_cells"]():
        config = TABLE13["get_config"](f"{cell},stage1={'' if cell.endswith('proden') else '/stage1'}")
        check_config(config)
        assert config.model.name == ("resnet32_projection" if cell.startswith("cifar") else "mlp")
    stage1, stage2 = (TABLE13["get_config"](f"cifar100,0.07,{m}") for m in ("proden", "retrain"))
    assert (stage1.method, stage1.data.bias, stage1.num_epochs) == ("proden", "partial_7", 100)
    assert (stage2.method, stage2.data.bias, stage2.num_epochs) == ("erm", "confidences", 120)
    assert (stage2.warmup_epochs, stage2.meta_every_steps) == (45, 20)
    with pytest.raises(UsageError, match="the method proden is stage one: leave it out"):
        TABLE13["get_config"]("mnist,0.1,proden,stage1=/stage1")
