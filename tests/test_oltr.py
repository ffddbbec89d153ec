"""OLTR: its parts against loops over examples in float64, its two stages, and its start from another run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import small_config

from cmwnet_jax.core import oltr as core
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.data.batches import BalancedOrder, BatchOrder
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import EpochStart
from cmwnet_jax.methods.oltr import chosen_logits, class_means
from cmwnet_jax.models.memory_head import MemoryHead
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior
from cmwnet_jax.train.start_from import read_classifier

RNG = np.random.default_rng(0)
FEATURES, CENTROIDS, LABELS = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)), np.array([2, 0, 2, 3, 2])


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_the_head_is_the_loop_over_examples(x64):
    """Memory read by the linear classifier's softmax, selected, scaled by the nearest centroid, squashed."""
    head = MemoryHead(4, jax.nn.initializers.normal(), scale=16.0, reach=10.0)
    direct = RNG.normal(size=(5, 4))
    params = {
        "centroids": CENTROIDS,
        "kernel": RNG.normal(size=(3, 4)),
        "selector": {"kernel": RNG.normal(size=(3, 3)), "bias": RNG.normal(size=3)},
    }
    out = jax.jit(head.apply)({"params": params}, FEATURES, direct)
    for i, f in enumerate(FEATURES):
        attention = softmax(direct[i])
        memory = sum(attention[c] * CENTROIDS[c] for c in range(4))
        chosen = np.tanh(f @ params["selector"]["kernel"] + params["selector"]["bias"])
        v = 10 / min(np.linalg.norm(f - c) for c in CENTROIDS) * (f + chosen * memory)
        length = np.linalg.norm(v)
        for c in range(4):
            w = params["kernel"][:, c]
            cosine = v @ w / length / np.linalg.norm(w)
            np.testing.assert_allclose(out.logits[i, c], 16 * length / (1 + length) * cosine, atol=1e-12)
    np.testing.assert_array_equal(out.direct, direct)
    np.testing.assert_array_equal(chosen_logits(out), out.logits)
    empty = out._replace(centroids=jnp.zeros((4, 3)))
    np.testing.assert_array_equal(chosen_logits(empty), direct)


def test_the_memory_is_read_without_gradient_and_a_feature_may_be_a_centroid(x64):
    def total(features, centroids):
        head = MemoryHead(4, jax.nn.initializers.normal())
        params = {
            "centroids": centroids,
            "kernel": CENTROIDS.T,
            "selector": {"kernel": CENTROIDS[:3], "bias": CENTROIDS[3]},
        }
        return jnp.sum(head.apply({"params": params}, features, FEATURES @ CENTROIDS.T).logits[:, 0])

    features = FEATURES.copy()
    features[1] = CENTROIDS[2]
    value, (by_features, by_centroids) = jax.jit(jax.value_and_grad(total, (0, 1)))(features, CENTROIDS)
    assert np.isfinite(value) and np.isfinite(by_features).all()
    np.testing.assert_array_equal(by_centroids, 0)


@pytest.mark.parametrize("margin", [0.0, 50.0])
def test_the_centroid_loss_and_its_gradients(x64, margin):
    """Values by loops; the features' gradient is the value's, a centroid's attraction is the centre loss's."""
    attract = np.mean([np.sum((f - CENTROIDS[y]) ** 2) / 2 for f, y in zip(FEATURES, LABELS, strict=True)])
    others = [
        np.sum((f - CENTROIDS[c]) ** 2)
        for f, y in zip(FEATURES, LABELS, strict=True)
        for c in range(4)
        if c != y
    ]
    hinge = max(0, margin - sum(others) / 20)
    loss = jax.jit(
        jax.value_and_grad(
            lambda f, c: core.centroid_loss(f, jnp.asarray(LABELS), c, margin=margin, repel=0.3), (0, 1)
        )
    )
    value, (by_features, by_centroids) = loss(FEATURES, CENTROIDS)
    np.testing.assert_allclose(value, attract + 0.3 * hinge, atol=1e-12)
    pulls, moves, active = np.zeros((5, 3)), np.zeros((4, 3)), 0.3 * (hinge > 0)
    for i, (f, y) in enumerate(zip(FEATURES, LABELS, strict=True)):
        pulls[i] = (f - CENTROIDS[y]) / 5
        moves[y] += (CENTROIDS[y] - f) / 5 / (1 + np.sum(y == LABELS))
        for c in range(4):
            if c != y:
                pulls[i] -= active * 2 * (f - CENTROIDS[c]) / 20
                moves[c] += active * 2 * (f - CENTROIDS[c]) / 20
    np.testing.assert_allclose(by_features, pulls, atol=1e-12)
    np.testing.assert_allclose(by_centroids, moves, atol=1e-12)


def test_the_objectives_of_both_stages(x64):
    """Cross-entropies of either classifier; the centroid loss is no term, so that no weight multiplies it."""
    direct, logits = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4))

    def apply_fn(variables, image):
        return core.MemoryOutputs(jnp.asarray(logits), jnp.asarray(direct), image, jnp.asarray(CENTROIDS))

    classes = MetaClasses.fit([3, 5, 9, 9], num_meta_classes=2)
    batch = {"image": jnp.asarray(FEATURES), "label": jnp.asarray(LABELS)}
    settings = {"strength": 0.25, "margin": 50.0, "repel": 0.3}
    base = jax.jit(partial(core.centroid_loss, margin=50.0, repel=0.3))(FEATURES, LABELS, CENTROIDS)
    stages = {
        "one": (core.direct_objective(apply_fn, classes), direct, 0.0),
        "two": (core.oltr_objective(apply_fn, classes, **settings), logits, 0.25 * base),
    }
    for objective, of, expected_base in stages.values():
        out, _ = jax.jit(objective)({}, {}, batch, jax.random.key(0))
        losses = [-np.log(softmax(of[i])[y]) for i, y in enumerate(LABELS)]
        np.testing.assert_allclose(out.terms, losses, atol=1e-12)
        np.testing.assert_allclose(out.base, expected_base, atol=1e-12)
        np.testing.assert_array_equal(out.meta_class, classes.of_class[LABELS])


def test_class_means():
    means = class_means(FEATURES, LABELS, 4)
    np.testing.assert_allclose(means, [FEATURES[1], np.zeros(3), FEATURES[[0, 2, 4]].mean(axis=0), FEATURES[3]])


def test_balanced_batches_draw_classes_and_their_examples_equally_often():
    labels = np.repeat([0, 1, 2, -1, 4], [100, 9, 3, 5, 1])
    usual = BatchOrder(3, len(labels), 20, stream="train")
    order = BalancedOrder(usual, labels, first_epoch=2)
    np.testing.assert_array_equal(order.epoch(1), usual.epoch(1))
    rows = order.epoch(2)
    assert rows.shape == usual.epoch(2).shape and rows.dtype == np.int32
    np.testing.assert_array_equal(
        [np.bincount(labels[batch], minlength=5) for batch in rows], [[5, 5, 5, 0, 5]] * 5
    )
    counts = np.bincount(rows.ravel(), minlength=len(labels))
    assert set(counts[:100]) == {0, 1} and set(counts[100:109]) <= {2, 3} and set(counts[109:112]) <= {8, 9}
    np.testing.assert_array_equal(order(2 * order.epoch_steps + 3), rows[3])
    assert np.any(order.epoch(3) != rows) and np.array_equal(BalancedOrder(usual, labels, 2).epoch(2), rows)


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory):
    """A finished plain run."""
    folder = tmp_path_factory.mktemp("stage_one") / "run"
    train(small_config(method="erm", num_epochs=1, warmup_epochs=0), folder)
    return folder


def test_stage_two_starts_from_a_plain_run(stage_one, tmp_path):
    """Its classifier is the part of that name; the memory begins as the mean features, and is in the result."""
    config = small_config(method="oltr", num_epochs=1, warmup_epochs=0, model__init=str(stage_one))
    data = load_data(config)
    state = build_recipe(config, data).state
    memory = state.params["memory"]
    linear = {name: value for name, value in state.params.items() if name != "memory"}
    stored = read_classifier(str(stage_one), {"params": linear, **state.model_state})
    jax.tree.map(np.testing.assert_array_equal, stored, {"params": linear, **state.model_state})
    assert np.any(memory["kernel"]) and not np.any(memory["centroids"])
    result = train(config, tmp_path / "run")
    assert result["test_accuracy_percent_last"] > 40
    assert {"test_many_shot_accuracy_percent_last", "test_few_shot_accuracy_percent_last"} <= result.keys()
    posterior = np.load(save_posterior(str(tmp_path / "run"), str(tmp_path / "posterior.npy"), True))
    assert posterior.shape == (len(data.true_labels), 10)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(UsageError, match=r"model.init is .*not the config's.*params/memory"):
        build_recipe(small_config(method="oltr", warmup_epochs=0, model__init=str(tmp_path / "run")), data)


def test_stage_two_begins_with_a_memory_head_that_stage_one_has_not_decayed():
    """Weight decay alone moves it there."""
    config = small_config(method="oltr", num_epochs=2, warmup_epochs=1)
    data = load_data(config)
    recipe = build_recipe(config, data)
    made = recipe.state.params
    decayed = jax.tree.map(lambda x: 1e-6 * x, made["memory"])
    width = decayed["centroids"].shape[1]
    start = EpochStart(
        number=1,
        state=recipe.state.replace(params={**made, "memory": decayed}),
        measure=None,
        loss_history=None,
        read=jax.device_get,
        replicate=lambda tree: jax.tree.map(jnp.asarray, tree),
        map=lambda split, function, variables: np.ones((len(data.biased.ids), width), np.float32),
    )
    params = recipe.method.plan_epoch(start).state["params"]
    assert params.keys() == made.keys() and np.all(params["memory"]["centroids"] == 1)
    for name in ("kernel", "selector"):
        lengths = [optax.tree.norm(tree["memory"][name]) for tree in (params, made)]
        np.testing.assert_allclose(*lengths, rtol=0.2)


def test_without_a_stage_one_it_is_refused():
    with pytest.raises(UsageError, match="warmup_epochs is 0 and model.init is empty"):
        check_config(small_config(method="oltr", warmup_epochs=0))
