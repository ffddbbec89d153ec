"""The classifier's optimiser is the one that the config's fields say, in the virtual step, too."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_build import batches
from test_config import DIGITS, parsed
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import free_weights, weight_nets
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.optimizers import learning_rate_schedule, make_optimizer, trainable_filter
from cmwnet_jax.train.trainer import Trainer

PARAMS = {"body": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])}, "head": {"bias": jnp.array([0.3, -0.1])}}
GRADS = jax.tree.map(lambda p: 3 * jnp.cos(p), PARAMS)
ADAM = {"optimizer__name": "adamw", "optimizer__virtual_learning_rate": 10.0}
META_METHODS = ("mwnet", "cmwnet", "cmwnet_sl", "l2rw", "mcw")
RATE = optax.piecewise_constant_schedule(0.1, {72: 0.1, 102: 0.1})  # of 120 steps, at 60% and 85%


def sgd(rate):
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9, nesterov=False))


def moved(optimizer, steps=3):
    """(parameters, optimiser's state) after some steps."""
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("changes", "by_hand"),
    [
        ({}, sgd(RATE)),
        ({"optimizer__clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), sgd(RATE))),
        (ADAM, optax.adamw(RATE, weight_decay=5e-4)),
        (
            {**ADAM, "optimizer__name": "adam"},
            optax.chain(optax.add_decayed_weights(5e-4), optax.adam(RATE)),
        ),
        (
            {**ADAM, "optimizer__clip_norm": 2.0, "optimizer__momentum": 0.3},
            optax.chain(optax.clip_by_global_norm(2.0), optax.adamw(RATE, weight_decay=5e-4)),
        ),
    ],
    ids=["sgd", "sgd, clipped", "adamw", "adam", "adamw, clipped"],
)  # fmt: skip
def test_the_optimizer_is_the_one_by_hand_bit_for_bit(changes, by_hand):
    config = small_config(**changes)
    made = make_optimizer(config, learning_rate_schedule(config, 20))
    (params, state), (expected, own_state) = moved(made), moved(by_hand)
    assert_same(params, expected)
    assert_same(jax.tree.leaves(state), jax.tree.leaves(own_state))
    if not changes:  # what checkpoints of runs so far hold
        assert_same(state, own_state)


def test_parameters_that_are_not_trained_stay_and_do_not_count_for_the_norm():
    config = small_config(optimizer__trainable=("head/*",), optimizer__clip_norm=0.5)
    params, state = moved(make_optimizer(config, learning_rate_schedule(config, 20)))
    assert_same(params["body"], PARAMS["body"])
    head, grads, by_hand = PARAMS["head"], GRADS["head"], sgd(RATE)
    own, scale = by_hand.init(head), jnp.minimum(1, 0.5 / optax.tree.norm(grads))
    for _ in range(3):
        updates, own = by_hand.update(jax.tree.map(lambda g: g * scale, grads), own, head)
        head = optax.apply_updates(head, updates)
    np.testing.assert_allclose(params["head"]["bias"], head["bias"], rtol=1e-6)
    assert not any(leaf.shape == (2, 2) for leaf in jax.tree.leaves(state))  # no momentum is kept of the others


def test_slow_parameters_move_by_a_part_of_the_others_step():
    """As with two optimisers, one of a tenth of the rate."""
    config = small_config(optimizer__slow=("body/*",), optimizer__momentum=0.9)
    params, _ = moved(make_optimizer(config, learning_rate_schedule(config, 20)))
    expected, _ = moved(optax.partition({"body": sgd(0.01), "head": sgd(0.1)}, {n: n for n in PARAMS}))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), params, expected)
    with pytest.raises(UsageError, match=r"a pattern in optimizer.slow is 'tail/\*'"):
        moved(make_optimizer(small_config(optimizer__slow=("tail/*",)), optax.constant_schedule(0.1)))


def rates(epoch_steps=10, **changes):
    config = small_config(num_epochs=12, **{f"optimizer__{name}": value for name, value in changes.items()})
    check_config(config)
    return np.asarray(jax.vmap(learning_rate_schedule(config, epoch_steps))(jnp.arange(12 * epoch_steps)))


def test_linear_warmup_and_cosine_are_the_closed_forms():
    steps = np.arange(120)
    cosine = 0.05 * (1 + np.cos(np.pi * steps / 120))
    np.testing.assert_allclose(rates(schedule="cosine"), cosine, rtol=1e-6, atol=1e-8)
    rise = 0.1 * (steps[:25] + 1) / 26
    after = 0.05 * (1 + np.cos(np.pi * np.arange(95) / 95))
    got = rates(schedule="cosine", linear_warmup_epochs=2.5)
    np.testing.assert_allclose(got, [*rise, *after], rtol=1e-6, atol=1e-8)
    # optax's own, whose rise starts a step earlier at 0.
    own = optax.warmup_cosine_decay_schedule(0.1 / 26, 0.1, 25, 120)
    np.testing.assert_allclose(got, [own(step) for step in steps], rtol=1e-6, atol=1e-8)
    drops = rates(linear_warmup_epochs=2.0, decay_at_percent=(50.0,))
    np.testing.assert_allclose(drops, [*(0.1 * np.arange(1, 21) / 21), *[0.1] * 50, *[0.01] * 50], rtol=1e-6)
    constant = rates(schedule="warm_restarts", linear_warmup_epochs=1.0)  # warmup_epochs is 2
    np.testing.assert_allclose(constant[10:20], 0.1, rtol=1e-6)
    assert constant[20] == pytest.approx(0.1) and constant[21] < 0.09995


def test_the_schedule_starts_anew_after_the_warmup():
    """Each phase's rates are those of a run of its length."""
    got = rates(schedule="cosine", linear_warmup_epochs=1.0, two_phases=True)
    for part in (got[:20], got[20:]):
        after = 0.05 * (1 + np.cos(np.pi * np.arange(len(part) - 10) / (len(part) - 10)))
        np.testing.assert_allclose(part, [*(0.1 * np.arange(1, 11) / 11), *after], rtol=1e-6, atol=1e-8)


def is_last_layer(params):
    return {name: name == "Dense_1" for name in params}


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_meta_step_is_the_one_by_hand(low_memory):
    """Rates, clipping and parts of the classifier, of the virtual and of the real step."""
    config = small_config(
        **ADAM,
        optimizer__learning_rate=0.01,
        optimizer__clip_norm=0.1,
        optimizer__trainable=("Dense_1/*",),
        weight_net__learning_rate=0.02,
        low_memory=low_memory,
    )
    data = load_data(config)
    recipe = build_recipe(config, data)
    moves = jax.tree.broadcast(is_last_layer(recipe.state.params), recipe.state.params)
    stays = jax.tree.map(lambda moved: not moved, moves)
    adam = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.01, weight_decay=5e-4))
    optimizer = optax.chain(optax.masked(adam, moves), optax.masked(optax.set_to_zero(), stays))
    arguments = {
        "optimizer": optimizer,
        "weight_optimizer": optax.chain(optax.add_decayed_weights(1e-4), optax.adam(0.02)),
    }
    by_hand = cmw.make_meta_step(
        objective=cmw.classification_objective(recipe.model.apply, recipe.method.meta_classes),
        meta_loss=cmw.classification_meta_loss(recipe.model.apply),
        weight_fn=cmw.WeightNet(3, 100).apply,
        virtual_lr=10.0,
        virtual_filter=is_last_layer,
        axis_name=parallel.AXIS,
        **arguments,
    )
    own = cmw.MetaState.create(
        **{n: getattr(recipe.state, n) for n in ("params", "model_state", "weight_params", "rng")}, **arguments
    )
    step = recipe.method.phases[-1].step
    programs = (step.step if low_memory else parallel.pmap(step), parallel.pmap(by_hand))
    batch, meta_batch = batches(data)
    state, numbers = programs[0](parallel.replicate(recipe.state), {"train": batch, "meta": meta_batch})
    expected, own_numbers = programs[1](parallel.replicate(own), batch, meta_batch)
    np.testing.assert_allclose(numbers["meta_grad_norm"], own_numbers["meta_grad_norm"], rtol=1e-4)
    for field in ("params", "weight_params"):
        pairs = zip(*(jax.tree.leaves(getattr(end, field)) for end in (state, expected)), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    assert_same(parallel.unreplicate(state.params)["Dense_0"], jax.device_get(recipe.state.params["Dense_0"]))


@pytest.mark.parametrize("method", META_METHODS)
def test_each_method_looks_ahead_as_the_config_says(method, monkeypatch):
    given = {}
    for module, name in (
        (weight_nets, "make_meta_step"),
        (weight_nets, "make_low_memory_step"),
        (free_weights, "make_meta_step"),
    ):
        monkeypatch.setattr(module, name, lambda **arguments: given.update(arguments) or (lambda *a: None))
    config = small_config(method=method, **ADAM, optimizer__trainable=("Dense_1/b*",))
    build_recipe(config, load_data(config))
    assert float(given["virtual_lr"](7)) == 10
    chosen = given["virtual_filter"]({"Dense_1": {"bias": 0, "kernel": 0}, "body": {"bias": 0}})
    assert chosen == {"Dense_1": {"bias": True, "kernel": False}, "body": {"bias": False}}


def test_adams_weight_decay_is_coupled_as_torchs_is():
    """The first step of Adam is the sign of the gradient with the decay in it, whatever their sizes."""
    config = small_config(optimizer__name="adam", optimizer__weight_decay=100.0, optimizer__learning_rate=0.05)
    made = make_optimizer(config, learning_rate_schedule(config, 20))
    params, _ = moved(made, steps=1)
    expected = jax.tree.map(lambda p, g: p - 0.05 * jnp.sign(g + 100 * p), PARAMS, GRADS)
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-5), params, expected)


@pytest.mark.parametrize("method", META_METHODS)
def test_adamw_needs_a_rate_of_its_own_to_look_ahead(method):
    with pytest.raises(UsageError, match=r"^optimizer.virtual_learning_rate is 0.0, .*adamw"):
        check_config(small_config(method=method, optimizer__name="adamw"))
    for name in ("adamw", "sgd"):  # nothing in float32
        with pytest.raises(UsageError, match="^optimizer.virtual_learning_rate is 1e-60"):
            check_config(
                small_config(method=method, optimizer__name=name, optimizer__virtual_learning_rate=1e-60)
            )


def test_adamw_needs_none_where_no_weights_are_learned(tmp_path):
    check_config(small_config(method="erm", optimizer__name="adamw"))
    check_config(
        small_config(optimizer__name="adamw", weight_net__frozen=True, weight_net__init=str(tmp_path / "net"))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__name": "adamW"}, "optimizer.name is 'adamW', expected one of adam, adamw, sgd"),
        ({"optimizer__clip_norm": 1e-60}, "clip_norm is 1e-60, with which the classifier would never learn"),
        ({"optimizer__trainable": ("",)}, "optimizer.trainable is .*, expected patterns"),
        ({"optimizer__trainable": (3,)}, "optimizer.trainable is .3,., expected patterns"),
        ({"optimizer__trainable": ("a\nb",)}, "expected patterns of parameters' names"),
        ({"optimizer__trainable": ("*",) * 101}, "has 101 entries"),
        ({"optimizer__slow": ("",)}, "optimizer.slow is .*, expected patterns"),
        ({"optimizer__slow_factor": 0.0}, r"optimizer.slow_factor is 0.0, expected a number in \(0, 1\)"),
        ({"optimizer__linear_warmup_epochs": 6.0}, "linear_warmup_epochs is 6.0, expected less than 6"),
        (
            {"optimizer__linear_warmup_epochs": 2.0, "optimizer__two_phases": True},
            "linear_warmup_epochs is 2.0, expected less than 2",
        ),
        (
            {"optimizer__two_phases": True, "warmup_epochs": 0},
            "two_phases is True, but warmup_epochs is 0, expected at least 1 and less than",
        ),
        (
            {"optimizer__two_phases": True, "optimizer__schedule": "warm_restarts"},
            "but warm_restarts already has a constant learning rate",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        check_config(small_config(**changes))


def test_a_list_of_patterns_is_no_text():
    values = small_config().to_dict()
    values["optimizer"]["trainable"] = "head/*"
    with pytest.raises(UsageError, match=r"^optimizer.trainable is 'head/\*', expected a list$"):
        check_config(type(small_config())(values))


def test_patterns_come_by_the_command_line():
    config = parsed(f"{DIGITS}:none,erm", "--config.optimizer.trainable=('head/*', 'Dense_?/bias')")
    check_config(config)
    assert config.optimizer.trainable == ("head/*", "Dense_?/bias")


@pytest.mark.parametrize("patterns", [("head/*",), ("Dense_1/*", "nothing"), ("DENSE_1/*",)])
def test_a_pattern_without_a_parameter_is_refused_with_the_names(patterns, tmp_path):
    with pytest.raises(UsageError, match=r"optimizer.trainable is '.*Dense_1/bias, Dense_1/kernel") as error:
        train(small_config(optimizer__trainable=patterns), tmp_path / "run")
    assert str(error.value).isprintable()
    assert not (tmp_path / "run").exists()


def test_of_many_parameters_the_modules_are_listed():
    params = {f"layer_{i}": {"conv": {"kernel": 0}, "bn": {"scale": 0}} for i in range(20)}
    with pytest.raises(UsageError, match=r"layer_0/\*, layer_1/\*"):
        trainable_filter(("head/*",))(params)


def test_a_run_with_adamw_on_one_layer_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Also through a checkpoint in an epoch; and body parameters are as they started."""
    config = small_config(
        **ADAM, optimizer__learning_rate=0.01, optimizer__trainable=("Dense_1/*",), optimizer__clip_norm=1.0,
        num_epochs=2, warmup_epochs=0, chunk_steps=13, checkpoint__every_minutes=1e-9,
        checkpoint__every_epochs=1, data__bias="symmetric_40",
    )  # fmt: skip
    whole = train(config, tmp_path / "whole")
    run_chunk, calls = Trainer.run_chunk, []

    def until_killed(*arguments):
        calls.append(1)
        if len(calls) == 4:  # inside of the last epoch
            raise KeyboardInterrupt
        return run_chunk(*arguments)

    monkeypatch.setattr(Trainer, "run_chunk", until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    result = train(config, tmp_path / "run")
    assert result["test_loss_last"] == whole["test_loss_last"]
    assert result["test_accuracy_percent_last"] == whole["test_accuracy_percent_last"]
    recipe = build_recipe(config, load_data(config))
    with Checkpoints(tmp_path / "run/checkpoints", 2) as checkpoints:
        params = checkpoints.restore(recipe.state).state.params
    assert_same(params["Dense_0"], jax.device_get(recipe.state.params["Dense_0"]))
    assert np.any(params["Dense_1"]["bias"] != recipe.state.params["Dense_1"]["bias"])


def test_a_config_without_the_fields_is_one_with_the_defaults(tmp_path):
    """An unfinished run of before these fields goes on."""
    config = small_config(method="erm", num_epochs=1, warmup_epochs=0)
    whole = train(config, tmp_path / "run")
    file = tmp_path / "run/config.json"
    stored = json.loads(file.read_text())
    for name in ("name", "virtual_learning_rate", "clip_norm", "trainable"):
        del stored["optimizer"][name]
    file.write_text(json.dumps(stored))
    (tmp_path / "run/result.json").unlink()
    assert train(config, tmp_path / "run")["test_loss_last"] == whole["test_loss_last"]
