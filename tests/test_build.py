"""The steps that a config builds are the steps that it says, and numbers are what they are called."""

import warnings

import jax
import numpy as np
import optax
import pytest
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax.core.schedules import step_decay
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.drawing import meta_class_names
from cmwnet_jax.methods.base import Stream
from cmwnet_jax.report.runs import mean_and_sd
from cmwnet_jax.train import metrics, parallel
from cmwnet_jax.train.build import batch_order, build_recipe
from cmwnet_jax.train.loop import train


def batches(data, size=48):
    """A training and a meta batch of it, split over the four devices."""
    raw: Raw = data.splits["train"].take(np.arange(size))
    batch = {"image": raw.image.astype(np.float32) / 255, "label": raw.label}
    return [parallel.split(b) for b in (batch, jax.tree.map(lambda x: x[::-1], batch))]


def main_step(recipe, phase=-1):
    """A phase's step, of a training and a meta batch."""
    step = recipe.method.phases[phase].step
    return lambda state, batch, meta_batch: step(state, {"train": batch, "meta": meta_batch})


def test_the_recipe_is_the_configs():
    """Learning rates, weight decays, momentum, normalisation and model, against a composition by hand."""
    config = small_config(
        optimizer__learning_rate=0.05,
        optimizer__weight_decay=0.1,
        optimizer__nesterov=True,
        weight_net__learning_rate=0.02,
        weight_net__weight_decay=0.3,
        weight_net__normalize="mean",
        weight_net__hidden=7,
    )
    data = load_data(config)
    recipe = build_recipe(config, data)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, momentum=0.9, nesterov=True))
    weight_optimizer = optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.02))
    by_hand = cmw.make_meta_step(
        objective=cmw.classification_objective(recipe.model.apply, recipe.method.meta_classes),
        meta_loss=cmw.classification_meta_loss(recipe.model.apply),
        weight_fn=cmw.WeightNet(3, 7).apply,
        optimizer=optimizer,
        weight_optimizer=weight_optimizer,
        virtual_lr=0.05,
        normalize="mean",
        axis_name=parallel.AXIS,
    )
    own = cmw.MetaState.create(
        params=recipe.state.params,
        model_state=recipe.state.model_state,
        weight_params=recipe.state.weight_params,
        optimizer=optimizer,
        weight_optimizer=weight_optimizer,
        rng=recipe.state.rng,
    )
    ends = []
    for step, state in ((main_step(recipe), recipe.state), (by_hand, own)):
        program, state = parallel.pmap(step), parallel.replicate(state)
        for _ in range(2):
            state, _ = program(state, *batches(data))
        ends.append(state)
    for field in ("params", "weight_params"):
        for expected, got in zip(*(jax.tree.leaves(getattr(end, field)) for end in ends), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_the_weight_net_learns_on_each_kth_step_only():
    config = small_config(meta_every_steps=3)
    data = load_data(config)
    recipe = build_recipe(config, data)
    program, state = parallel.pmap(main_step(recipe)), parallel.replicate(recipe.state)
    learned = []
    for _ in range(5):
        before = jax.tree.leaves(state.weight_params)[0]
        state, numbers = program(state, *batches(data))
        learned.append(bool(np.any(before != jax.tree.leaves(state.weight_params)[0])))
        assert learned[-1] == bool(np.isfinite(numbers["meta_loss"][0]))
    assert learned == [True, False, False, True, False]


@pytest.mark.parametrize("over", ["all", "local"])
def test_batch_normalisation_is_over_all_devices_where_the_config_says_so(over):
    config = small_config(model__batch_norm_over=over)
    data = load_data(config)
    recipe = build_recipe(config, data)
    batch, _ = batches(data)
    program = parallel.pmap(
        lambda state, images: recipe.model.apply(
            {"params": state.params, **state.model_state}, images, mutable=["batch_stats"]
        )
    )
    _, changed = program(parallel.replicate(recipe.state), batch["image"])
    means = np.asarray(changed["batch_stats"]["BatchNorm_0"]["mean"])
    assert np.allclose(means[0], means[1]) == (over == "all")


def test_the_learning_rate_decays_at_its_shares_also_where_two_fall_on_one_step():
    schedule = step_decay(0.1, 100, (60, 85), 0.1)
    values = [float(schedule(s)) for s in (0, 59, 61, 84, 86, 99)]
    np.testing.assert_allclose(values, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_allclose(step_decay(1.0, 10, (60, 60), 0.1)(7), 0.01, rtol=1e-6)


def test_streams_of_one_seed_are_all_different():
    """NumPy pads a list of seeds with zeros: [s, 1] and [s, 1, 0] would be one stream."""
    counters = [(), (0,), (1,), (0, 0), (1, 0)]
    drawn = [generator(seed, purpose, *c).random() for seed in (0, 1) for purpose in Purpose for c in counters]
    assert len(set(drawn)) == len(drawn)


def test_a_batch_that_the_devices_cannot_share_evenly_is_made_smaller_with_a_warning():
    config, stream = small_config(), Stream(100, "meta_set.batch_size", planned=True)
    with pytest.warns(
        UserWarning, match=r"stream 'meta' have 28 instead of 30 examples, .*meta_set.batch_size"
    ):
        assert batch_order(config, "meta", stream, 30, 5).batch_size == 28
    with pytest.warns(
        UserWarning, match="24 instead of 30 examples, as many as the run's 4 devices times micro_"
    ):
        assert batch_order(small_config(micro_batches=3), "meta", stream, 30, 5).batch_size == 24
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batch_order(config, "meta", stream, 400, 5).batch_size == 100


def test_no_noise_is_the_order_of_the_batches():
    """The share of wrong labels is alike in all batches of the first epochs."""
    data = load_data(small_config(data__bias="long_tail_2+symmetric_40"))
    recipe = build_recipe(small_config(), data)
    for epoch in range(2):
        shares = data.biased.is_wrong[recipe.orders["train"].epoch(epoch)].mean(axis=1)
        assert np.ptp(shares) < 0.5


def test_numbers_of_the_weights():
    weights, wrong = np.array([0.9, 0.8, 0.1, 0.2]), np.array([False, False, True, True])
    assert metrics.weight_auc(weights, wrong) == 1
    assert metrics.weight_auc(weights, ~wrong) == 0
    assert np.isnan(metrics.weight_auc(weights, np.zeros(4, bool)))
    numbers = metrics.weight_metrics(weights, wrong, np.zeros(4, int), 1)
    np.testing.assert_allclose(
        [numbers["weight_mean"], numbers["weight_mean_right"], numbers["weight_mean_wrong"]], [0.5, 0.85, 0.15]
    )
    np.testing.assert_allclose(metrics.effective_share(np.array([1.0, 1.0, 0.0, 0.0])), 0.5)
    assert metrics.effective_share(np.zeros(3)) == 0


def test_means_over_the_last_epochs_and_over_seeds():
    history = [{"x": float(epoch)} for epoch in range(20)]
    assert metrics.last_epochs_mean(history, "x") == 14.5
    assert metrics.last_epochs_mean([{"x": None}, {"x": 2.0}], "x") == 2
    assert mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert meta_class_names([10, 100, 1000])[2] == "large (about 1000 examples)"


def test_one_device_and_four_train_alike(tmp_path, monkeypatch):
    """The launcher with BatchNorm: same batches, same weights, same end."""
    ends = {}
    for count in (1, 4):
        with monkeypatch.context() as patch:
            devices = jax.local_devices()[:count]
            patch.setattr(jax, "local_devices", lambda devices=devices: devices)
            patch.setattr(jax, "local_device_count", lambda count=count: count)
            patch.setattr(jax, "device_count", lambda count=count: count)
            pmap = jax.pmap
            patch.setattr(jax, "pmap", lambda f, devices=devices, pmap=pmap, **k: pmap(f, devices=devices, **k))
            ends[count] = train(small_config(num_epochs=4), tmp_path / str(count))
    for field in ("test_loss_last", "test_accuracy_percent_last"):
        assert ends[4][field] == pytest.approx(ends[1][field], rel=1e-3)
    assert np.isfinite(ends[1]["test_loss_last"])


def test_programs_are_kept_on_disk_but_not_those_of_several_cpu_devices(monkeypatch):
    """Such a program in micro-batches, read from a cache, has crashed the process."""
    before = jax.config.jax_compilation_cache_dir
    try:
        for devices, kept in ((4, False), (1, True)):
            jax.config.update("jax_compilation_cache_dir", None)
            monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
            parallel.use_compilation_cache()
            assert bool(jax.config.jax_compilation_cache_dir) == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def test_batch_norm_is_refused_before_the_run_where_examples_are_to_be_independent():
    config = small_config(independent_examples=True)
    with pytest.raises(cmw.UsageError, match="independent_examples is True, but the BatchNorm of mlp"):
        build_recipe(config, load_data(config))
    config.model.batch_norm = False
    assert build_recipe(config, load_data(config)).method.weight_net.learns
