"""Selective classification: SelectiveNet's loss, errors at calibrated thresholds, a run and its report."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from jax.test_util import check_grads
from scipy.special import logsumexp, softmax
from test_chunks import stopped
from test_kill import compare
from test_train import small_config

from cmwnet_jax.core.selective import ThreeHeads, selective_loss, selective_meta_loss, selective_objective
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.measure import measured
from cmwnet_jax.report.write import write_report
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.selective import (
    ACCEPT_ALL,
    aurc_percent,
    risk_coverage_curve,
    selective_arrays,
    threshold,
)

SETTINGS = {"coverage": 0.8, "strength": 32.0}
ALPHA = 0.3


def three_heads(variables, inputs, *, mutable, rngs):
    """Three linear heads on the tests' small network, whose examples batch normalisation couples."""
    params = variables["params"]
    features, model_state = problems.apply(
        {**variables, "params": params["body"]}, inputs, mutable=mutable, rngs=rngs
    )
    logits, selection, auxiliary = (features @ params[name] for name in ("f", "g", "h"))
    return ThreeHeads(logits, selection[:, 0], auxiliary), model_state


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    heads = {
        name: jnp.asarray(rng.normal(size=(problems.CLASSES, size)))
        for name, size in (("f", 4), ("g", 1), ("h", 4))
    }
    return {"body": problems.init_params(jax.random.key(seed)), **heads}


def cross_entropies(logits, labels):
    return np.array([logsumexp(row) - row[label] for row, label in zip(logits, labels, strict=True)])


def by_the_formula(losses, selected, coverage, strength):
    """L(f, g) of E.3.1, example by example."""
    covered = sum(selected) / len(selected)
    risk = sum(loss * g for loss, g in zip(losses, selected, strict=True)) / len(losses) / covered
    return risk + strength * max(0, coverage - covered) ** 2


def outputs(params, batch):
    heads, _ = three_heads(
        {"params": params, **problems.init_model_state()}, batch["image"], mutable=(), rngs={}
    )
    return jax.tree.map(np.asarray, heads)


@pytest.mark.parametrize("coverage", [0.05, 0.95])  # with and without the penalty
def test_objective_and_meta_loss_are_the_papers_formulas(coverage, x64):
    params, batch = parameters(), problems.batch(1, 12)
    settings = {**SETTINGS, "coverage": coverage}
    heads, labels = outputs(params, batch), np.asarray(batch["label"])
    selective = by_the_formula(
        cross_entropies(heads.logits, labels), 1 / (1 + np.exp(-heads.selection)), coverage, 32.0
    )
    auxiliary = cross_entropies(heads.auxiliary, labels)
    objective = selective_objective(three_heads, problems.meta_classes(), alpha=ALPHA, **settings)
    state = problems.init_model_state()
    out, _ = objective(params, state, batch, jax.random.key(0))
    np.testing.assert_allclose(out.base, ALPHA * selective, rtol=1e-12)
    np.testing.assert_allclose(out.terms, (1 - ALPHA) * auxiliary, rtol=1e-12)
    np.testing.assert_allclose(out.losses, auxiliary, rtol=1e-12)
    total = ALPHA * selective + (1 - ALPHA) * sum(auxiliary) / len(auxiliary)
    np.testing.assert_allclose(out.base + jnp.mean(out.terms), total, rtol=1e-12)
    np.testing.assert_array_equal(out.meta_class, problems.meta_classes().of_class[labels])
    meta_loss = selective_meta_loss(three_heads, **settings)
    np.testing.assert_allclose(meta_loss(params, state, batch, jax.random.key(0)), selective, rtol=1e-12)

    @jax.jit
    def total_of(params):
        out, _ = objective(params, state, batch, jax.random.key(0))
        return out.base + jnp.mean(out.terms)

    jax.config.update("jax_numpy_rank_promotion", "allow")  # the checker multiplies scalars and arrays
    check_grads(total_of, (params,), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


def test_a_risk_without_coverage_is_finite():
    """Where the sigmoid has underflowed, only the penalty is left, and no NaN."""
    losses, selected = jnp.array([3.0, 20.0]), jnp.zeros(2)
    value, gradient = jax.value_and_grad(lambda g: selective_loss(losses, g, **SETTINGS))(selected)
    np.testing.assert_allclose(value, 32 * 0.8**2, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_what_cannot_be_a_selective_loss_says_so():
    ones = jnp.ones(3)
    for coverage in (0, 1.1, 80):
        with pytest.raises(UsageError, match=r"coverage is .*, expected a number in \(0, 1\]"):
            selective_loss(ones, ones, coverage=coverage, strength=1.0)
    with pytest.raises(UsageError, match=r"selected \(3, 1\), expected \[n\] of both"):
        selective_loss(ones, ones[:, None], **SETTINGS)
    objective = selective_objective(lambda variables, x: x, problems.meta_classes(), **SETTINGS)
    with pytest.raises(UsageError, match="expected ThreeHeads"):
        objective({}, {}, {"image": jnp.ones((3, 4)), "label": jnp.zeros(3, int)}, None)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_threshold_accepts_the_coverage_and_no_more(size):
    certainty = np.random.default_rng(size).normal(size=size)
    for coverage in (0.5, 7, 29, 70, 95, 99.9):
        accepted = np.sum(certainty >= threshold(certainty, coverage))
        assert accepted >= coverage * size / 100 - 1e-9 > accepted - 1 - 2e-9
    assert threshold(certainty, 100) == ACCEPT_ALL


def test_the_curve_is_the_error_of_the_most_certain_and_ties_are_a_mean_over_orders():
    certainty, is_right = np.array([2, 1, 2, 0, 1, 1]), np.array([True, False, False, True, True, True])
    orders = [
        order for order in itertools.permutations(range(6)) if np.all(np.diff(certainty[list(order)]) <= 0)
    ]
    curves = [100 * np.cumsum(~is_right[list(order)]) / np.arange(1, 7) for order in orders]
    curve = risk_coverage_curve(certainty, is_right)
    np.testing.assert_allclose(curve, np.mean(curves, axis=0), rtol=1e-12)
    shuffled = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(risk_coverage_curve(certainty[shuffled], is_right[shuffled]), curve, rtol=1e-12)
    perfect = risk_coverage_curve(is_right.astype(float), is_right)
    np.testing.assert_allclose(perfect, [0, 0, 0, 0, 20, 100 / 3], rtol=1e-12)


@pytest.fixture
def tested():
    rng = np.random.default_rng(3)
    labels = rng.integers(4, size=60).astype(np.int32)
    logits = (3 * rng.normal(size=(60, 4)) + 20 * np.eye(4)[labels] * (rng.random(60) > 0.3)[:, None]).astype(
        np.float32
    )
    return jax.tree.map(np.asarray, measured(jnp.asarray(logits), jnp.asarray(labels))), labels, logits


def test_softmax_response_is_kept_where_float32_rounds_it_to_one(tested):
    results, _, logits = tested
    exact = np.sort(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(results.certainty, exact[:, -1] - logsumexp(exact[:, :-1], axis=1), rtol=1e-5)
    response = softmax(exact, axis=1)[:, -1]
    np.testing.assert_array_equal(np.argsort(results.certainty), np.argsort(np.log(response / (1 - response))))
    assert np.sum(results.confidence == 1) > 1 == np.max(np.unique(results.certainty, return_counts=True)[1])


def test_errors_are_counted_at_thresholds_from_the_calibration_split_alone(tested):
    test, labels, _ = tested
    calibration = test._replace(certainty=test.certainty[:20], predictions=None, losses=None)
    arrays = selective_arrays(test, labels, calibration, (100.0, 70.0))
    limit = np.sort(test.certainty[:20])[6]
    chosen = [i for i in range(60) if test.certainty[i] >= limit]
    assert arrays["accepted"].tolist() == [60, len(chosen)]
    assert arrays["wrong"].tolist() == [
        sum(test.predictions[i] != labels[i] for i in rows) for rows in (range(60), chosen)
    ]
    np.testing.assert_allclose(aurc_percent(test, labels), arrays["curve_percent"].mean(), rtol=1e-6)
    assert np.isnan(aurc_percent(test._replace(certainty=np.full(60, np.nan)), labels))


def test_a_calibration_split_is_set_apart_before_the_bias(tmp_path):
    config = small_config(data__calibration_per_class=7, meta_set__kind="held_out", data__bias="long_tail_5")
    data = load_data(config)
    apart = data.record.calibration
    others = np.concatenate([data.biased.ids, data.record.held_out])
    assert not set(apart) & set(others)
    assert np.bincount(data.true_labels[apart]).tolist() == [7] * 10
    np.testing.assert_array_equal(data.splits["calibration"].label, data.true_labels[apart])
    config.data.path = "stream"
    streamed = load_data(config).splits["calibration"].read(np.arange(3))
    np.testing.assert_array_equal(streamed.image, np.asarray(data.splits["calibration"].image)[:3])
    config.data.calibration_per_class = 10**4
    with pytest.raises(UsageError, match="data.calibration_per_class is 10000, expected fewer than the"):
        load_data(config)


def test_a_selective_run_goes_on_bit_for_bit_and_is_reported(tmp_path, monkeypatch):
    fields = {
        "data__bias": "symmetric_40",
        "data__calibration_per_class": 10,
        "batch_size": 44,
        "chunk_steps": 13,
    }
    config = small_config(
        method="selectivenet_cmwnet", num_epochs=3, warmup_epochs=1, model__hidden=(8,), **fields
    )
    config.selectivenet.coverage_percent = 70.0
    check_config(config)
    run, whole = tmp_path / "run", tmp_path / "runs/set/20/selectivenet_cmwnet/coverage=70/seed0"
    result = train(config, whole)
    assert stopped(config, run, 3, monkeypatch) == (1, 13)
    train(config, run)
    compare(tmp_path, config, whole, run)
    arrays, again = (read_arrays(folder, "selective") for folder in (whole, run))
    for name, values in arrays.items():
        np.testing.assert_array_equal(again[name], values)
    assert arrays["coverages_percent"].tolist() == [70]
    assert 0 < result["test_mean_selection_last"] < 1
    np.testing.assert_allclose(result["test_aurc_percent_last"], arrays["curve_percent"].mean(), rtol=1e-6)
    assert 100 - arrays["curve_percent"][-1] == pytest.approx(result["test_accuracy_percent_last"], abs=1e-4)

    paper = {"score": "selective_error", "columns": ["set,20,selectivenet_cmwnet"]}
    paper["rows"] = {"70": [[12.5, 0.25]]}
    (tmp_path / "paper.json").write_text(json.dumps({"table 15": paper}))
    write_report([tmp_path / "runs"], tmp_path / "report", paper=str(tmp_path / "paper.json"))
    error = 100 * arrays["wrong"][0] / arrays["accepted"][0]
    covered = 100 * arrays["accepted"][0] / len(arrays["curve_percent"])
    tables = (tmp_path / "report/tables.md").read_text()
    assert "|  | set 20 selectivenet_cmwnet |" in tables
    assert f"| 70 | {error:.2f} (1, covers {covered:.1f}); paper 12.50 ± 0.25 |" in tables
    assert f"| coverage=70 | {result['test_aurc_percent_last']:.2f} (1) |" in tables
    assert (tmp_path / "report/figures/set/20/risk_coverage.png").exists()
