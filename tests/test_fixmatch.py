"""FixMatch, with a threshold and with a weight net: objective, class sizes, data and runs. See test_battery."""

import dataclasses
import json
import math
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import CLASSES, FEATURES, K, apply, flat, init_model_state, init_params, weight_net
from test_methods import built
from test_start_from import state_of
from test_train import final_arrays, interrupt, small_config

import cmwnet_jax as cmw
from cmwnet_jax.core.schedules import cosine_7_16
from cmwnet_jax.core.semi_supervised import (
    ClassSizes,
    counting,
    fixmatch_objective,
    learning_apart,
    reporting_labels,
    shuffled,
    threshold_weights,
)
from cmwnet_jax.core.soft_labels import Teacher
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import fixmatch, fixmatch_cmwnet
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.start_from import read_classifier

LABELLED, UNLABELLED, FACTOR, THRESHOLD, RATE = 3, 7, 1.7, 0.6, 0.1
OF_CLASS = np.array([2, 0, 1, 1], np.int32)


def examples(seed=0):
    rng = np.random.default_rng(seed)

    def images(count):
        return jnp.asarray(rng.normal(size=(count, FEATURES)))

    label = jnp.asarray(np.arange(LABELLED) % CLASSES, jnp.int32)
    return {
        "labelled": {"weak": images(LABELLED), "label": label},
        "unlabelled": {"weak": images(UNLABELLED), "strong": images(UNLABELLED)},
    }


def initial(memory=(), weight_params=(), **optimizers):
    params = init_params(jax.random.key(1))
    return cmw.MetaState.create(
        params={**params, "w2": 3 * params["w2"]},  # sure enough for the threshold
        model_state=init_model_state(),
        optimizer=optax.sgd(RATE),
        rng=jax.random.key(2),
        memory=memory,
        weight_params=weight_params,
        **optimizers,
    )


def written_out(params, batch, weight_of):
    """Eq. 17 as a loop over examples; BatchNorm's mean and variance are those of all views."""
    weak, strong = (batch["unlabelled"][view] for view in ("weak", "strong"))
    views = jnp.concatenate([batch["labelled"]["weak"], weak, strong])
    hidden = views @ params["w1"]
    mean, variance = jnp.mean(hidden, axis=0), jnp.var(hidden, axis=0)

    def log_probabilities(image):
        normal = (image @ params["w1"] - mean) / jnp.sqrt(variance + 1e-5) * params["scale"]
        logits = jnp.tanh(normal) @ params["w2"] + params["b2"]
        return logits - jnp.log(jnp.sum(jnp.exp(logits)))

    total, weights = 0.0, []
    for image, label in zip(batch["labelled"]["weak"], batch["labelled"]["label"], strict=True):
        total += -log_probabilities(image)[label] / LABELLED
    for easy, hard in zip(weak, strong, strict=True):
        seen = jax.lax.stop_gradient(log_probabilities(easy))
        pseudo = jnp.argmax(seen)
        loss = -log_probabilities(hard)[pseudo]
        weights.append(jax.lax.stop_gradient(weight_of(jnp.exp(seen[pseudo]), loss, pseudo)))
        total += FACTOR * weights[-1] * loss / UNLABELLED
    return total, jnp.stack(weights)


def step_of(weight_fn, **options):
    return cmw.make_weighted_step(
        objective=fixmatch_objective(apply, factor=FACTOR, **options),
        optimizer=optax.sgd(RATE),
        weight_fn=weight_fn,
        normalize="mean",
    )


def threshold_case():
    step = reporting_labels(step_of(threshold_weights(THRESHOLD), weigh_by="weak"))
    return step, initial(), lambda highest, loss, pseudo: 1.0 * (highest >= THRESHOLD)


def weight_net_case():
    net, weight_params = weight_net()
    sizes = dataclasses.replace(ClassSizes.alike(CLASSES, K, 100), of_class=OF_CLASS)

    def weight_of(highest, loss, pseudo):
        return net.apply(weight_params, loss[None], jnp.asarray(OF_CLASS)[pseudo][None])[0]

    state = initial(jax.tree.map(jnp.asarray, sizes), weight_params)
    return counting(step_of(net.apply, num_meta_classes=K)), state, weight_of


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", [threshold_case, weight_net_case])
def test_the_objective_and_its_gradient_are_a_loop_over_examples(case):
    step, state, weight_of = case()
    batch = examples()
    new, metrics = jax.jit(step)(state, batch)
    loop = jax.jit(jax.value_and_grad(lambda p: written_out(p, batch, weight_of), has_aux=True))
    (total, weights), grads = loop(state.params)
    assert 0 < np.mean(weights) < 1
    np.testing.assert_allclose(metrics["weights"], weights, atol=1e-12)
    np.testing.assert_allclose(metrics["objective"], total, atol=1e-12)
    np.testing.assert_allclose(flat(new.params), flat(state.params) - RATE * flat(grads), rtol=0, atol=1e-12)
    if new.memory != ():
        counted = np.bincount(metrics["labels"], minlength=CLASSES)
        np.testing.assert_array_equal(new.memory.counts, counted)


@pytest.mark.usefixtures("x64")
def test_micro_batches_take_the_meta_classes_of_all_classes():
    """The number of classes has nothing to do with that of examples, which micro-batches cut."""
    net, weight_params = weight_net()

    def uncoupled(variables, x, *, mutable, rngs):
        return jnp.tanh(x @ variables["params"]["w1"]) @ variables["params"]["w2"], {}

    sizes = dataclasses.replace(ClassSizes.alike(CLASSES, K, 100), of_class=OF_CLASS)
    optimizers = {"optimizer": optax.sgd(RATE), "weight_optimizer": optax.sgd(RATE)}
    arguments = {
        "objective": fixmatch_objective(uncoupled, num_meta_classes=K),
        "meta_loss": cmw.classification_meta_loss(uncoupled),
        "weight_fn": net.apply,
        "virtual_lr": RATE,
        "normalize": "mean",
        **optimizers,
    }
    state = initial(jax.tree.map(jnp.asarray, sizes), weight_params, weight_optimizer=optax.sgd(RATE))
    state, batch = state.replace(model_state={}), examples()
    batch["unlabelled"] = jax.tree.map(lambda x: x[: 2 * LABELLED], batch["unlabelled"])
    meta_batch = {"image": batch["labelled"]["weak"], "label": batch["labelled"]["label"]}
    results = []
    for step in (
        cmw.make_meta_step(**arguments),
        cmw.make_low_memory_step(**arguments, micro_batches=LABELLED),
    ):
        results.append(counting(step)(state, batch, meta_batch))
    (new, metrics), (expected, expected_metrics) = results
    assert len(set(np.asarray(OF_CLASS)[metrics["labels"]])) > 1
    np.testing.assert_allclose(metrics["weights"], expected_metrics["weights"], atol=1e-12)
    for field in ("params", "weight_params", "memory"):
        np.testing.assert_allclose(flat(getattr(new, field)), flat(getattr(expected, field)), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_shuffled_weights_are_the_same_weights_of_a_net_that_learns_as_usual():
    objective, optimizers = fixmatch_objective(apply), {"optimizer": optax.sgd(RATE), "normalize": "mean"}
    net = cmw.WeightNet(num_meta_classes=1, hidden=8, param_dtype=jnp.float64)
    weight_params = net.init(jax.random.key(5), jnp.ones(1), jnp.zeros(1, jnp.int32))
    meta_step = cmw.make_meta_step(
        objective=objective,
        meta_loss=cmw.classification_meta_loss(apply),
        weight_fn=net.apply,
        weight_optimizer=optax.sgd(1.0),
        virtual_lr=RATE,
        **optimizers,
    )
    apart = cmw.make_weighted_step(objective=shuffled(objective), weight_fn=net.apply, **optimizers)
    batch = examples()
    meta_batch = {"image": batch["labelled"]["weak"], "label": batch["labelled"]["label"]}
    state = initial(weight_params=weight_params, weight_optimizer=optax.sgd(1.0))
    steps = (meta_step, learning_apart(meta_step, apart))
    (usual, shown), (other, mixed) = jax.jit(lambda *given: [step(*given) for step in steps])(
        state, batch, meta_batch
    )
    np.testing.assert_allclose(flat(other.weight_params), flat(usual.weight_params), rtol=0, atol=1e-14)
    assert mixed["meta_loss"] == pytest.approx(shown["meta_loss"])
    assert np.max(np.abs(mixed["weights"] - shown["weights"])) > 1e-6
    np.testing.assert_allclose(np.sort(mixed["weights"]), np.sort(shown["weights"]), atol=1e-14)
    np.testing.assert_array_equal(mixed["aux"], shown["aux"])
    assert other.step == 1


def test_classes_are_clustered_by_their_shares_of_the_pseudo_labels():
    sizes = ClassSizes.alike(4, 2, 1000)
    assert sizes.clustered(1000) is sizes  # nothing counted yet
    assert sizes.meta_classes.of_class.tolist() == [0, 0, 0, 0]
    assert sizes.meta_classes.centers.tolist() == [250, 250]
    counted = dataclasses.replace(sizes, counts=np.array([8, 1, 1, 10], np.int32))
    found = counted.clustered(1000)
    assert found.of_class.tolist() == [1, 0, 0, 1]
    assert found.centers.tolist() == [50, 450]
    assert found.counts.tolist() == [0, 0, 0, 0]
    for field in ("counts", "of_class", "centers"):
        assert getattr(found, field).dtype == getattr(sizes, field).dtype


def test_classes_are_clustered_before_each_epoch_without_a_warning():
    sizes = ClassSizes.alike(4, 3, 40)

    def plan(counts):
        memory = dataclasses.replace(sizes, counts=np.array(counts))
        start = SimpleNamespace(read=lambda tree: tree, replicate=lambda tree: tree, state=SimpleNamespace())
        start.state.memory = memory
        plan = fixmatch_cmwnet._plan(SimpleNamespace(num_examples=40), start)
        return plan.state["memory"].of_class.tolist()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan([0, 0, 0, 0]) == [0, 0, 0, 0]
        assert plan([1, 1, 5, 9]) == [0, 0, 1, 2]
        assert plan([1, 1, 9, 9]) == [0, 0, 1, 1]  # fewer sizes than meta-classes


def test_heads_that_cannot_have_learned_are_said_when_the_run_is_built(tmp_path):
    usual = {"method": "fixmatch_cmwnet", "data__bias": "labels_40", "fixmatch__rand_ops": 0}
    net = cmw.WeightNet(12).init(jax.random.key(0), np.ones(1), np.zeros(1, int))
    about = {"has_class": [k < 8 for k in range(12)]}
    cmw.save_weight_net(tmp_path / "net", net, centers=range(12), loss_range=(0, 1), provenance=about)
    frozen = {"weight_net__init": str(tmp_path / "net"), "weight_net__frozen": True}
    with pytest.warns(UserWarning) as caught:
        _, recipe = built(**usual, **frozen, weight_net__num_meta_classes=12)
    assert recipe.method.weight_net.save(recipe.state, (0.0, 1.0), 1).has_class.tolist() == about["has_class"]
    said = [str(warning.message) for warning in caught]
    assert any("num_meta_classes is 12, more than the 10 classes" in text for text in said)
    assert any("heads for meta-classes 8, 9 had no class where it was learned" in text for text in said)


def test_without_a_threshold_all_count():
    np.testing.assert_array_equal(threshold_weights(0.0)((), jnp.array([0.0, 9.0]), None), 1)


def test_the_cosine_ends_at_a_fifth():
    schedule = cosine_7_16(0.03, 2**20)
    for step, expected in ((0, 0.03), (2**19, 0.03 * math.cos(7 * math.pi / 32)), (2**20, 0.03 * 0.19509032)):
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


def config_of(method="fixmatch_cmwnet", **fields):
    """RandAugment compiles for seconds, so runs here have only cutout."""
    usual = {
        "data__bias": "labels_40",
        "num_epochs": 3,
        "epoch_steps": 4,
        "batch_size": 112,
        "fixmatch__labelled_batch_size": 16,
        "fixmatch__rand_ops": 0,
        "meta_set__batch_size": 60,  # more than there are
        "checkpoint__every_epochs": 1,
    }
    return small_config(method=method, **(usual | fields))


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Stopped inside the second epoch: pseudo-labels, class sizes and the plan go on; the metrics tell them."""
    config = config_of(chunk_steps=2, checkpoint__every_minutes=1e-9)
    result = train(config, tmp_path / "whole")
    interrupt(config, tmp_path / "resumed", monkeypatch, steps_done=2)
    train(config, tmp_path / "resumed")
    whole, resumed = (final_arrays(config, tmp_path / name) for name in ("whole", "resumed"))
    for (path, expected), (_, got) in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=jax.tree_util.keystr(path))
    lines = lines_of(tmp_path / "whole")
    assert lines_of(tmp_path / "resumed") == lines
    assert len(lines[0]["weight_mean_by_meta_class"]) == 3
    assert lines[0]["weight_mean_by_meta_class"][1:] == [None, None]  # no sizes known yet
    for line in lines:
        assert 0 < line["weight_mean_right"] < 1 and 0 < line["weight_mean_wrong"] < 1
        assert 0 < line["labels_right_percent"] < 100
        assert line["latest_test_accuracy_percent"] > 10
    with np.load(tmp_path / "whole/weights.npz") as arrays:
        seen = arrays["seen"]
        assert arrays["given"][seen].min() >= 0 and arrays["functions"].shape[0] == 3
        of_class = np.array(result["meta_class_of_class"])
        assert set(of_class) == {0, 1, 2}
        np.testing.assert_array_equal(arrays["meta_class"][seen], of_class[arrays["given"][seen]])
    (average, *_) = fixmatch.AVERAGED["classifiers"](state_of(config, tmp_path / "whole")).values()
    started = read_classifier(str(tmp_path / "whole"), average)  # the classifier that was tested
    jax.tree.map(np.testing.assert_array_equal, started, jax.device_get(average))
    net = cmw.load_weight_net(tmp_path / "whole")
    np.testing.assert_allclose(net.centers, result["meta_class_centers"])
    assert net.provenance["meta_class_of_class"] == of_class.tolist()


def test_both_input_paths_have_the_labelled_examples_as_a_split_of_their_own():
    device, stream = (load_data(config_of(data__path=path)) for path in ("device", "stream"))
    rows = np.flatnonzero(device.biased.is_labelled)
    assert device.biased.class_counts.tolist() == [4] * 10
    for data in (device, stream):
        labelled = data.splits["labelled"].take(np.arange(40))
        np.testing.assert_array_equal(labelled.image, data.splits["train"].take(rows).image)
        np.testing.assert_array_equal(labelled.label, device.true_labels[rows])
        assert data.splits["train"].take(np.arange(1257)).label.tolist().count(-1) == 1217
    recipe = build_recipe(config_of(), device)
    assert recipe.epoch_steps == 4
    shapes = {name: order.epoch(0).shape for name, order in recipe.orders.items()}
    assert shapes == {"labelled": (4, 16), "unlabelled": (4, 112), "meta": (4, 40)}
    strong = recipe.method.streams["unlabelled"].views["strong"]
    assert (strong.rand_ops, strong.cutout_pixels) == (0, 4)


def test_the_average_that_is_tested_soon_follows_the_classifier():
    """Momentum (1 + t) / (10 + t) at first, then the config's."""

    def moving(state, batch):
        return state.replace(step=state.step + 1, params=2 * state.params), {}

    config = config_of("fixmatch", fixmatch__average_momentum=0.2)
    step = fixmatch.averaged(SimpleNamespace(config=config), moving)
    state = cmw.MetaState.create(params=jnp.ones(1), optimizer=optax.identity(), rng=jax.random.key(0))
    state, expected = state.replace(teacher=Teacher(jnp.zeros(1), {})), 0.0
    for params, keep in ((1, 0.1), (2, 2 / 11), (4, 0.2), (8, 0.2)):
        expected = keep * expected + (1 - keep) * params
        state, _ = step(state, {})
        np.testing.assert_allclose(state.teacher.params, expected, rtol=1e-6)
    tested = fixmatch.AVERAGED["classifiers"](state)
    assert {name: float(variables["params"][0]) for name, variables in tested.items()} == {
        "": pytest.approx(expected),
        "latest": 16,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__bias": "labels_45"}, "labels: count is 45, expected a multiple of the 10 classes.*: take 40"),
        ({"data__bias": "labels_0"}, "count is 0, expected a multiple of the 10 classes, .*: take 10"),
        ({"data__bias": "labels_2000"}, "labels: count is 2000, expected at most the 1257 examples: lower it"),
        ({"data__bias": "long_tail_100+labels_40"}, "which is 4 of each class, but class 9 has 1 examples"),
        ({"data__bias": "labels_40+symmetric_20"}, "'symmetric_20' follows labels_N: put that last"),
        ({"data__bias": "symmetric_20"}, "method is 'fixmatch_cmwnet', which learns from a few labels"),
        ({"method": "cmwnet"}, "method is 'cmwnet', .* gives labels to 40 of the 1257 examples: take method"),
        ({"method": "proden"}, "which learns from candidate sets"),
        ({"fixmatch__unlabelled_factor": 0.0}, "unlabelled_factor is 0.0, with which fixmatch_cmwnet would be"),
        ({"fixmatch__threshold": 0.5}, "fixmatch.threshold is 0.5, which fixmatch_cmwnet does not read"),
        ({"fixmatch__threshold": 1.0}, r"fixmatch.threshold is 1.0, expected a number in \[0, 1\)"),
        ({"meta_set__kind": "balanced"}, "its meta data are the labelled examples"),
        ({"meta_set__rank_by": "now"}, "rank_by is 'now', .* labelled examples: leave it 'history'"),
        ({"independent_examples": True}, "independent_examples is True, which fixmatch_cmwnet does not read"),
        ({"weight_net__normalize": "none"}, "normalize is 'none', which fixmatch_cmwnet does not read"),
        ({"fixmatch__labelled_batch_size": 6}, "labelled_batch_size is 6, expected a multiple"),
        ({"epoch_steps": -1}, "epoch_steps is -1, expected a number"),
        ({"augment__cutout_pixels": -1}, "cutout_pixels is -1, expected a number"),
    ],
)
def test_mistakes_are_one_sentence(fields, message):
    fields = {"method": "fixmatch_cmwnet", "data__bias": "labels_40", **fields}
    config = small_config(**fields)
    with pytest.raises(UsageError, match=message):
        check_config(config)
        build_recipe(config, load_data(config))


def test_mistakes_in_ones_own_training_are_named():
    for options, message in (({"factor": 0}, "factor is 0"), ({"weigh_by": "both"}, "weigh_by is 'both'")):
        with pytest.raises(UsageError, match=message):
            fixmatch_objective(apply, **options)
    step, state, _ = threshold_case()
    with pytest.raises(UsageError, match="expected 'labelled', too"):
        step(state, {"unlabelled": {}})
    with pytest.raises(UsageError, match="state.memory is no ClassSizes"):
        counting(step)(state, examples())
    step, (_, weight_params) = step_of(weight_net()[0].apply, num_meta_classes=K), weight_net()
    with pytest.raises(UsageError, match=r"\['meta_class_of_class'\] has shape \(4,\), expected a row of all"):
        step(initial((), weight_params), {**examples(), "meta_class_of_class": OF_CLASS})
