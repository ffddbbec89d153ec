"""Four ways to use four devices, each against one device, in float64: pmap, shard_map twice, sharded arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_free_weights
import test_soft_labels
from jax.sharding import NamedSharding, PartitionSpec
from problems import ALPHA, apply, batch, flat, meta_classes, per_example_losses, weight_net
from test_meta_step import make

import cmwnet_jax as cmw
from cmwnet_jax.core.lookup import looked_up
from cmwnet_jax.core.table import Table, blocks

pytestmark = pytest.mark.usefixtures("x64")
AXIS, WHOLE, SPLIT = "devices", PartitionSpec(), PartitionSpec("devices")
# Both read the loss: one scales by it, the other has it in its state.
OPTIMIZERS = {
    "optimizer": optax.chain(optax.sgd(0.1, momentum=0.9), optax.polyak_sgd(max_learning_rate=0.5)),
    "weight_optimizer": optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1)),
}


def coverage_penalty(terms, mean):
    """SelectiveNet's, of soft selections by loss, and the like of each class of two."""
    selected = jax.nn.sigmoid(3 - terms)
    halves = jnp.stack([selected**2, selected], axis=1)
    return jnp.maximum(0, 0.9 - mean(selected)) ** 2 + jnp.sum(jnp.maximum(0, 0.9 - mean(halves)) ** 2)


def objective_with_base(axis_name):
    """A base with means that devices have taken together already, and a term that they have not."""
    inner = cmw.classification_objective(functools.partial(apply, axis_name=axis_name), meta_classes())
    mean = functools.partial(cmw.objectives.mean_over_axis, axis_name=axis_name)

    def objective(*arguments):
        out, model_state = inner(*arguments)
        return out._replace(base=coverage_penalty(out.terms, mean) + jnp.mean(out.terms**3)), model_state

    return objective


def arguments_of(axis_name):
    model = functools.partial(apply, axis_name=axis_name)
    return {
        "objective": objective_with_base(axis_name),
        "meta_loss": cmw.classification_meta_loss(model),
        "weight_fn": weight_net()[0].apply,
        "virtual_lr": ALPHA,
        "axis_name": axis_name,
        **OPTIMIZERS,
    }


def meta(axis_name):
    """The meta loss, too, has been reduced over the devices by its owner."""

    def meta_loss(*arguments):
        value = arguments_of(axis_name)["meta_loss"](*arguments)
        return value if axis_name is None else jax.lax.pmean(value, axis_name)

    return cmw.make_meta_step(**arguments_of(axis_name) | {"meta_loss": meta_loss}), make(**OPTIMIZERS)[1]


def weighted(axis_name):
    names = ("objective", "weight_fn", "optimizer", "axis_name")
    step = cmw.make_weighted_step(**{name: arguments_of(axis_name)[name] for name in names})
    return lambda state, batch, meta_batch: step(state, batch), make(**OPTIMIZERS)[1]


def plain(axis_name):
    """Weights of one, a base of zero: what depends on no device."""
    objective = cmw.classification_objective(functools.partial(apply, axis_name=axis_name), meta_classes())
    optimizer = OPTIMIZERS["optimizer"]
    step = cmw.make_weighted_step(objective=objective, optimizer=optimizer, axis_name=axis_name)
    return lambda state, batch, meta_batch: step(state, batch), make(**OPTIMIZERS)[1]


def low_memory(axis_name, **options):
    """Its functions in the one program that is mapped."""
    step = cmw.make_low_memory_step(**arguments_of(axis_name), **options, compile=lambda f, **options: f)
    return step, make(**OPTIMIZERS)[1]


STEPS = {
    "meta": meta,
    "weighted": weighted,
    "plain": plain,
    "low_memory": low_memory,
    "shared forward": functools.partial(low_memory, shared_forward=True),
    "l2rw": lambda axis_name: test_free_weights.make("l2rw", size=24, axis_name=axis_name),
    "soft_labels": test_soft_labels.whole_step,
}


WITH_BASE = ("meta", "weighted", "low_memory")


def by_pmap(step, state, batches):
    table = blocks(state.memory, 4) if isinstance(state.memory, Table) else state.memory
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), state).replace(memory=table)
    mapped = jax.pmap(step, axis_name=AXIS)
    for pair in batches:
        states, metrics = mapped(states, *jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), pair))
    # Any device's: the third.
    state = jax.tree.map(lambda x: x[2], states).replace(memory=jax.tree.map(jnp.concatenate, states.memory))
    return state, {name: np.ravel(x) if x.ndim > 1 else x[2] for name, x in metrics.items()}


def by_shard_map(step, state, batches, **options):
    mesh = jax.make_mesh((4,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    specs = jax.tree.map(lambda x: WHOLE, state)
    specs = specs.replace(memory=jax.tree.map(lambda x: SPLIT, state.memory))

    def parted(state, *pair):
        state, metrics = step(state, *pair)
        scalars = {name: x for name, x in metrics.items() if not jnp.ndim(x)}
        return state, scalars, {name: x for name, x in metrics.items() if jnp.ndim(x)}

    mapped = jax.jit(
        jax.shard_map(
            parted, mesh=mesh, in_specs=(specs, SPLIT, SPLIT), out_specs=(specs, WHOLE, SPLIT), **options
        )
    )
    # Placed as it comes out: else the second step would be compiled anew.
    state = jax.device_put(state, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
    for pair in batches:
        state, scalars, by_example = mapped(state, *pair)
    return state, scalars | by_example


def by_sharding(step, state, batches, axes=jax.sharding.AxisType.Auto):
    mesh = jax.make_mesh((4,), (AXIS,), axis_types=(axes,))
    state = jax.device_put(state, NamedSharding(mesh, WHOLE))
    program = jax.jit(step)
    for pair in batches:
        state, metrics = program(state, *jax.device_put(pair, NamedSharding(mesh, SPLIT)))
    return state, metrics


def on_one(step, state, batches):
    program = jax.jit(step)
    for pair in batches:
        state, metrics = program(state, *pair)
    return state, metrics


WAYS = {
    "pmap": (by_pmap, AXIS),
    "shard_map": (by_shard_map, AXIS),
    "unchecked shard_map": (functools.partial(by_shard_map, check_vma=False), AXIS),
    "sharded arrays": (by_sharding, None),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_way_is_one_device(name):
    """Two steps, on examples that batch normalisation couples: all of the state, and the metrics."""
    of_size = test_soft_labels.numbered if name == "soft_labels" else batch
    batches = [(of_size(seed, 24), batch(seed + 10, 8)) for seed in range(2)]
    expected, expected_metrics = on_one(*STEPS[name](None), batches)
    for way, (run, axis_name) in WAYS.items():
        if way == "pmap" and name not in WITH_BASE:
            continue  # the battery's way, of every method
        state, metrics = run(*STEPS[name](axis_name), batches)
        numbers = [s.replace(rng=()) for s in (state, expected)]
        np.testing.assert_allclose(*map(flat, numbers), rtol=0, atol=1e-12, err_msg=way)
        assert metrics.keys() == expected_metrics.keys()
        for field, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[field], value, rtol=0, atol=1e-11, err_msg=f"{way}, {field}")


EXPLICIT = functools.partial(by_sharding, axes=jax.sharding.AxisType.Explicit)


@pytest.mark.parametrize("learns", [True, False])
def test_explicit_axes_are_one_device(learns):
    """The kind of axes that `jax.make_mesh` makes, of a model that can be split so; one label is no class."""
    apply, sgd = (lambda variables, x: x @ variables["params"]), optax.sgd(0.1)
    objective = cmw.classification_objective(apply, meta_classes())
    arguments = {"objective": objective, "weight_fn": weight_net()[0].apply, "optimizer": sgd}
    examples = {"image": np.ones((8, 6)), "label": np.arange(8) % 4 if learns else np.arange(-1, 7) % 5 - 1}
    step = cmw.make_weighted_step(**arguments)
    if learns:
        meta_loss = cmw.classification_meta_loss(apply)
        learned = {"meta_loss": meta_loss, "weight_optimizer": sgd, "virtual_lr": ALPHA}
        step = cmw.make_meta_step(**arguments, **learned)
    state = cmw.MetaState.create(
        params=np.ones((6, 4)),
        weight_params=weight_net()[1],
        optimizer=sgd,
        weight_optimizer=sgd,
        rng=jax.random.key(0),
    )
    pairs = [(examples, examples) if learns else (examples,)]
    (_, expected), (_, got) = (run(step, state, pairs) for run in (on_one, EXPLICIT))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(np.isnan(got["weights"]), examples["label"] < 0)


def test_rows_are_looked_up_and_mixed_on_explicit_axes():
    def own(_, labels, values):
        mixture = cmw.mixing.Mixture(jnp.float64(0.5), jnp.arange(8)[::-1])
        return _, {"rows": looked_up(np.eye(3), labels, jnp.nan), "mixed": mixture.blend(values)}

    pairs = [(np.array([0, 2, -1, 3, 1, 1, 0, 2]), np.arange(8.0))]
    _, got = EXPLICIT(own, (), pairs)
    np.testing.assert_array_equal(got["mixed"], np.full(8, 3.5))
    np.testing.assert_array_equal(
        got["rows"], np.vstack([np.eye(3), np.full(3, np.nan)])[[0, 2, 3, 3, 1, 1, 0, 2]]
    )


def test_a_penalty_of_a_mean_is_the_batchs_and_not_the_parts():
    """By hand: base and its gradient on one device; and the parts' own penalties are something else."""
    examples, params = batch(0, 24), make()[1].params

    def penalty(params, mean):
        return coverage_penalty(per_example_losses(params, examples), mean)

    penalty = jax.jit(jax.value_and_grad(penalty), static_argnums=1)
    expected = penalty(params, lambda x: jnp.sum(x, axis=0) / 24)
    got = penalty(params, functools.partial(cmw.objectives.mean_over_axis, axis_name=None))
    np.testing.assert_allclose(flat(got), flat(expected), rtol=0, atol=1e-14)
    terms = per_example_losses(params, examples).reshape(4, 6)
    of_parts = [coverage_penalty(part, lambda x: jnp.mean(x, axis=0)) for part in terms]
    assert abs(np.mean(of_parts) - got[0]) > 1e-3
    assert np.linalg.norm(flat(got[1])) > 1e-2


@pytest.mark.parametrize("values", [jnp.float32(1), jnp.ones(0), jnp.ones(3, int)])
def test_a_mean_needs_an_entry_an_example(values):
    with pytest.raises(cmw.UsageError, match=r"values has shape \(.* expected \[n, \.\.\.\] floats"):
        cmw.objectives.mean_over_axis(values, None)


@pytest.mark.parametrize("name", ["meta", "weighted", "low_memory"])
def test_an_axis_that_the_step_was_not_told_of_is_refused(name):
    """JAX would sum the gradients of all devices, each divided by its own weights."""
    with pytest.raises(
        cmw.UsageError, match="splits the examples over devices, expected .* axis_name='devices'"
    ):
        by_shard_map(*STEPS[name](None), [(batch(0, 24), batch(1, 8))])
