"""The step inside other people's code: four kinds of model, under jit, scan and vmap, compiled once."""

import collections

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cmwnet_jax as cmw

N, FEATURES, CLASSES, STEPS = 16, 6, 4, 5
META_CLASSES = cmw.MetaClasses.fit([5, 6, 80, 300], num_meta_classes=3)

Model = collections.namedtuple("Model", "init objective meta_loss")
"""init(key) -> (params, model_state); objective and meta_loss as the step takes them."""


def linen() -> Model:
    """Linen with BatchNorm and dropout, through the builders of the package."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
            return nn.Dense(CLASSES)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))

    net = Net()

    def init(key):
        variables = net.init({"params": key, "dropout": key}, jnp.zeros((1, FEATURES)))
        return variables["params"], {"batch_stats": variables["batch_stats"]}

    return Model(
        init,
        cmw.classification_objective(net.apply, META_CLASSES),
        cmw.classification_meta_loss(net.apply),
    )


def from_logits(init, logits_of) -> Model:
    """A model of the caller's own: logits_of(params, model_state, inputs, rng) -> (logits, model_state)."""
    of_class = jnp.asarray(META_CLASSES.of_class)

    def objective(params, model_state, batch, rng):
        logits, model_state = logits_of(params, model_state, batch["x"], rng)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return cmw.Objective(terms=losses, losses=losses, meta_class=of_class[batch["y"]]), model_state

    def meta_loss(params, model_state, batch, rng):
        out, _ = objective(params, model_state, batch, rng)
        return jnp.mean(out.terms)

    return Model(init, objective, meta_loss)


def nnx_model() -> Model:
    """NNX, split into parameters and the rest, merged inside the objective."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(FEATURES, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.last = nnx.Linear(8, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x))))

    graph = nnx.split(Net(nnx.Rngs(0)))[0]

    def init(key):
        _, params, rest = nnx.split(Net(nnx.Rngs(key)), nnx.Param, ...)
        return params, rest

    def logits_of(params, model_state, inputs, rng):
        del rng
        net = nnx.merge(graph, params, model_state, copy=True)  # variables of this trace, not of the caller's
        logits = net(inputs)
        return logits, nnx.split(net, nnx.Param, ...)[2]

    return from_logits(init, logits_of)


def plain() -> Model:
    """Functions on a dictionary of arrays."""

    def init(key):
        return {"w": jax.random.normal(key, (FEATURES, CLASSES)) * 0.1, "b": jnp.zeros(CLASSES)}, {}

    return from_logits(init, lambda params, state, x, rng: (x @ params["w"] + params["b"], state))


def equinox_model() -> Model:
    """An Equinox module, partitioned into arrays and the rest."""
    static = eqx.partition(eqx.nn.MLP(FEATURES, CLASSES, 8, 1, key=jax.random.key(0)), eqx.is_array)[1]

    def init(key):
        net = eqx.nn.MLP(FEATURES, CLASSES, 8, 1, key=key)
        return eqx.partition(net, eqx.is_array)[0], {}

    def logits_of(params, model_state, inputs, rng):
        del rng
        return jax.vmap(eqx.combine(params, static))(inputs), model_state

    return from_logits(init, logits_of)


MODELS = {"linen": linen, "nnx": nnx_model, "plain": plain, "equinox": equinox_model}


def problem(name):
    """(step, init(key) -> state, STEPS stacked pairs of batches)."""
    model = MODELS[name]()
    weight_net = cmw.WeightNet(num_meta_classes=3, hidden=8)
    optimizer, weight_optimizer = optax.sgd(0.1, momentum=0.9), optax.adam(1e-2)
    step = cmw.make_meta_step(
        objective=model.objective,
        meta_loss=model.meta_loss,
        weight_fn=weight_net.apply,
        optimizer=optimizer,
        weight_optimizer=weight_optimizer,
        virtual_lr=0.1,
    )

    def init(key):
        params, model_state = model.init(key)
        return cmw.MetaState.create(
            params=params,
            model_state=model_state,
            weight_params=weight_net.init(key, jnp.ones(1), jnp.zeros(1, jnp.int32)),
            optimizer=optimizer,
            weight_optimizer=weight_optimizer,
            rng=key,
        )

    rng = np.random.default_rng(0)
    inputs, labels = ("image", "label") if name == "linen" else ("x", "y")
    batches = [
        {
            inputs: jnp.asarray(rng.normal(size=(STEPS, size, FEATURES)), jnp.float32),
            labels: jnp.asarray(rng.integers(CLASSES, size=(STEPS, size)), jnp.int32),
        }
        for size in (N, N // 2)
    ]
    return step, init, batches


@pytest.mark.parametrize("name", MODELS)
def test_jit_scan_and_vmap_agree_and_compile_once(name):
    step, init, batches = problem(name)
    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(step, n=1))
    state = start = jax.jit(init)(jax.random.key(0))
    for index in range(STEPS):
        state, metrics = jitted(state, *jax.tree.map(lambda x, i=index: x[i], batches))
    assert int(state.step) == STEPS
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(metrics))
    for field in ("params", "weight_params", *(["model_state"] if name in ("linen", "nnx") else [])):
        moved = jax.tree.map(lambda a, b: np.any(a != b), getattr(start, field), getattr(state, field))
        assert any(jax.tree.leaves(moved)), f"{field} never moved"

    def scan(state):
        return jax.lax.scan(lambda s, pair: step(s, *pair), state, batches)

    scanned, all_metrics = jax.jit(scan)(start)
    chex.assert_trees_all_close(scanned.params, state.params, rtol=1e-5, atol=1e-6)
    assert all_metrics["weights"].shape == (STEPS, N)

    seeds = jax.random.split(jax.random.key(0), 3)
    states = jax.jit(jax.vmap(init))(seeds)
    many, _ = jax.jit(jax.vmap(scan))(states)
    alone, _ = jax.jit(scan)(jax.tree.map(lambda x: x[1], states))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], many.params), alone.params, rtol=1e-4, atol=1e-5)


def test_the_builders_put_a_linen_model_into_train_mode():
    """Dropout draws, and so do models whose argument has another name, or that are wrapped."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=deterministic)(x))

    linen_model, net = linen(), Net()
    params, model_state = linen_model.init(jax.random.key(0))
    batch = {"image": jnp.ones((N, FEATURES)) * jnp.arange(N)[:, None], "label": jnp.zeros(N, jnp.int32)}
    variables = net.init(jax.random.key(0), batch["image"], deterministic=True)
    other = cmw.classification_objective(net.apply, META_CLASSES, train_kwargs={"deterministic": False})
    for objective, arguments in (
        (linen_model.objective, (params, model_state)),
        (other, (variables["params"], {})),
    ):
        losses = [objective(*arguments, batch, jax.random.key(k))[0].losses for k in (0, 1)]
        assert np.any(losses[0] != losses[1])


def test_plain_functions_need_none_of_linens_arguments():
    def apply(variables, inputs):
        return inputs @ variables["params"]

    objective = cmw.classification_objective(apply, META_CLASSES)
    batch = {"image": jnp.ones((N, FEATURES)), "label": jnp.zeros(N, jnp.int32)}
    out, model_state = objective(jnp.zeros((FEATURES, CLASSES)), {}, batch, jax.random.key(0))
    np.testing.assert_allclose(out.losses, np.log(CLASSES), rtol=1e-6)
    assert model_state == {}
    soft = {**batch, "label": jax.nn.one_hot(jnp.full(N, 3), CLASSES)}
    out, _ = objective(jnp.zeros((FEATURES, CLASSES)), {}, soft, jax.random.key(0))
    np.testing.assert_array_equal(out.meta_class, META_CLASSES.of_class[3])
