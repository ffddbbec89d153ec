"""The cheaper pullback of independent examples against the default step, in float64, and what it refuses."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import on_one_and_on_four_devices

import cmwnet_jax as cmw
from cmwnet_jax.core import independent
from cmwnet_jax.core.objectives import mean_over_axis

N, M, CLASSES = 8, 4, 4
pytestmark = pytest.mark.usefixtures("x64")
META_CLASSES = cmw.MetaClasses.fit([5, 6, 80, 300], num_meta_classes=3)
OPTIMIZERS = {"optimizer": optax.sgd(0.1, momentum=0.9), "weight_optimizer": optax.sgd(1.0)}
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def mlp():
    """Plain functions; the hidden layer has a scale and a temperature that all examples share."""
    shapes = {"w1": (5, 6), "scale": (6,), "w2": (6, CLASSES), "b": (CLASSES,), "temperature": ()}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {
        name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def logits(params, x):
        hidden = jax.nn.relu(x @ params["w1"]) * params["scale"][None]
        return (hidden @ params["w2"] + params["b"][None]) * jnp.exp(params["temperature"])

    return params, logits, (5,)


class Cnn(nn.Module):
    """Convolutions, pooling and GroupNorm."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(2, **F64)(nn.Conv(4, (3, 3), **F64)(x)))
        x = nn.max_pool(nn.remat(nn.Conv)(4, (3, 3), **F64)(x), (2, 2), (2, 2))
        return nn.Dense(CLASSES, **F64)(x.reshape(len(x), -1))


class Transformer(nn.Module):
    """Token and position embeddings, attention, and a head that shares the token embedding."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(CLASSES, 4, **F64)
        x = embed(tokens) + self.param("position", nn.initializers.normal(1.0), (1, 3, 4), jnp.float64)
        x = x + nn.MultiHeadDotProductAttention(2, **F64)(nn.LayerNorm(**F64)(x))
        x = x + nn.Dense(4, **F64)(nn.gelu(nn.Dense(8, **F64)(nn.LayerNorm(**F64)(x))))
        return embed.attend(jnp.mean(x, axis=1))


def linen(module, shape, dtype=jnp.float64):
    variables = module.init(jax.random.key(0), jnp.zeros((1, *shape), dtype))
    return variables["params"], lambda params, x: module.apply({"params": params}, x), shape


def nnx_model():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(5, 6, rngs=rngs, **F64), nnx.LayerNorm(6, rngs=rngs, **F64)
            self.last = nnx.Linear(6, CLASSES, rngs=rngs, **F64)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x))))

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    return params, lambda params, x: nnx.merge(graph, params, copy=True)(x), (5,)


def equinox_model():
    params, static = eqx.partition(eqx.nn.MLP(5, CLASSES, 6, 2, key=jax.random.key(0)), eqx.is_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x), (5,)


def recurrent():
    """A loop, of which nothing is known, between layers that are."""
    params = {name: jax.random.normal(jax.random.key(i), (5, 5)) for i, name in enumerate("abc")}

    def logits(params, x):
        x = x @ params["a"]
        looped, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ params["b"]), ()), x, length=2)
        return (looped + x) @ params["c"][:, :CLASSES]

    return params, logits, (5,)


MODELS = {
    "mlp": mlp,
    "cnn": lambda: linen(Cnn(), (4, 4, 2)),
    "transformer": lambda: linen(Transformer(), (3,), jnp.int32),
    "nnx": nnx_model,
    "equinox": equinox_model,
    "recurrent": recurrent,
}


def examples(seed, n, shape):
    rng = np.random.default_rng(seed)
    tokens = shape == (3,)
    x = rng.integers(CLASSES, size=(n, *shape)) if tokens else rng.normal(size=(n, *shape))
    return {"x": jnp.asarray(x), "y": jnp.asarray(np.arange(n) % CLASSES, jnp.int32)}


def no_base(params, losses, axis_name):
    return 0.0


def coupling_base(params, losses, axis_name):
    """A function of a mean over all examples, which only `base` may be, and a part without examples."""
    decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return mean_over_axis(losses, axis_name) ** 2 + 0.01 * decay


def problem(model, axis_name=None, base=no_base, couple=lambda losses, logits: losses, **changes):
    """(step, state, (batch, meta batch)); `couple` maps the per-example losses and the logits to the terms."""
    params, logits_of, shape = MODELS[model]()

    def objective(params, model_state, batch, rng):
        logits = logits_of(params, batch["x"])
        losses = couple(cmw.cross_entropy(logits, batch["y"]), logits)
        meta_class = jnp.asarray(META_CLASSES.of_class)[batch["y"]]
        return cmw.Objective(losses, losses, meta_class, base(params, losses, axis_name)), model_state

    def meta_loss(params, model_state, batch, rng):
        return jnp.mean(cmw.cross_entropy(logits_of(params, batch["x"]), batch["y"]))

    net = cmw.WeightNet(num_meta_classes=3, hidden=4, param_dtype=jnp.float64)
    step = cmw.make_meta_step(
        objective=objective,
        meta_loss=meta_loss,
        weight_fn=net.apply,
        virtual_lr=0.3,
        axis_name=axis_name,
        **OPTIMIZERS,
        **changes,
    )
    state = cmw.MetaState.create(
        params=params,
        weight_params=net.init(jax.random.key(5), jnp.ones(1), jnp.zeros(1, jnp.int32)),
        rng=jax.random.key(2),
        **OPTIMIZERS,
    )
    return step, state, (examples(0, N, shape), examples(1, M, shape))


def assert_equal(got, expected):
    for first, second in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(first.dtype, jnp.floating):
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-12)


CASES = [*((model, no_base) for model in MODELS), ("mlp", coupling_base), ("recurrent", coupling_base)]


@pytest.mark.filterwarnings("ignore:independent_examples. no rule says how scan")
@pytest.mark.parametrize(("model", "base"), CASES)
def test_the_pullback_and_its_transpose_are_jaxs(model, base):
    params, logits_of, shape = MODELS[model]()

    def affine(params, batch):
        logits = logits_of(params, batch["x"])
        losses = cmw.cross_entropy(logits, batch["y"])
        return (jnp.asarray(base(params, losses, None), losses.dtype), losses), logits

    @jax.jit
    def both(params, batch, weights):
        default = jax.vjp(lambda params: affine(params, batch), params, has_aux=True)
        results = []
        for outputs, pullback, beside in (default, independent.vjp(affine, params, batch)):

            def products(weights, pullback=pullback):
                grads = pullback((jnp.full((), 0.7), weights))[0]
                pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True)
                return sum(jnp.sum(grad * leaf) for grad, leaf in pairs), grads

            results.append((outputs, beside, jax.grad(products, has_aux=True)(weights)))
        return results

    expected, got = both(params, examples(0, N, shape), jnp.linspace(-1, 2, N))
    assert_equal(got, expected)


@pytest.mark.parametrize(("model", "base"), [("mlp", coupling_base), ("transformer", no_base)])
def test_the_step_on_four_devices_is_the_default_one_on_one(model, base):
    def make(axis_name):
        promised = axis_name is not None
        return problem(model, axis_name, base, independent_examples=promised, delayed_weights=base is no_base)[
            :2
        ]

    results = on_one_and_on_four_devices(make, [problem(model)[2]])
    (one, one_metrics), (many, many_metrics) = results
    assert one_metrics["meta_grad_norm"] > 1e-5
    assert_equal(jax.tree.map(lambda x: x[3], many.replace(rng=())), one.replace(rng=()))
    for name in ("meta_grad_norm", "meta_loss", "objective", "loss"):
        np.testing.assert_allclose(many_metrics[name], np.full(4, one_metrics[name]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(many_metrics["weights"].ravel(), one_metrics["weights"], rtol=0, atol=1e-12)


COUPLED = {
    "reduce_sum": lambda losses, logits: losses - jnp.mean(losses),
    "reduce_max": lambda losses, logits: losses / jnp.max(losses, keepdims=True),
    "sort": lambda losses, logits: jnp.sort(losses),
    "cumsum": lambda losses, logits: jnp.cumsum(losses),
    "rev": lambda losses, logits: losses[::-1] + losses,
    "concatenate": lambda losses, logits: jnp.roll(losses, 1),
    "dot_general": lambda losses, logits: losses + jnp.sum(logits @ logits.T, axis=1),
    "psum": lambda losses, logits: losses - jax.lax.pmean(losses, "i"),
}


@pytest.mark.parametrize("name", COUPLED)
def test_an_operation_that_mixes_examples_is_named(name):
    step, state, batches = problem("mlp", couple=COUPLED[name], independent_examples=True)
    with pytest.raises(cmw.UsageError, match=f"independent_examples is True, but {name} .* mixes the examples"):
        jax.vmap(step, in_axes=None, axis_name="i", axis_size=1)(state, *batches)


def test_batch_normalisation_is_named():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(CLASSES, **F64)(
                nn.BatchNorm(use_running_average=False, **F64)(nn.Dense(6, **F64)(x))
            )

    net = Net()
    variables = net.init(jax.random.key(0), jnp.zeros((2, 5)))
    step = cmw.make_meta_step(
        objective=cmw.classification_objective(net.apply, META_CLASSES, train_kwargs={}),
        meta_loss=cmw.classification_meta_loss(net.apply, train_kwargs={}),
        weight_fn=lambda params, losses, meta_class: losses * params,
        virtual_lr=0.3,
        independent_examples=True,
        **OPTIMIZERS,
    )
    state = cmw.MetaState.create(
        params=variables.pop("params"),
        model_state=variables,
        weight_params=jnp.ones(()),
        rng=jax.random.key(0),
        **OPTIMIZERS,
    )
    batch = {"image": jnp.ones((N, 5)), "label": jnp.zeros(N, jnp.int32)}
    with pytest.raises(cmw.UsageError, match="but reduce_sum .* mixes the examples"):
        jax.eval_shape(step, state, batch, batch)


def traced(couple, size=N):
    step, state, batches = problem("mlp", couple=couple, independent_examples=True)
    jax.eval_shape(step, state, *jax.tree.map(lambda x: x[:size], batches))


@pytest.mark.filterwarnings("error")
def test_what_has_no_gradient_may_mix_examples():
    traced(lambda losses, logits: losses / (1 + jax.lax.stop_gradient(jnp.mean(losses))))


@pytest.mark.filterwarnings("error")
def test_a_single_example_is_mixed_with_none():
    traced(lambda losses, logits: losses - jnp.mean(losses) / 2, size=1)


def test_an_operation_without_a_rule_is_named():
    with pytest.warns(UserWarning, match="no rule says how gather treats the examples"):
        traced(lambda losses, logits: losses + logits[jnp.arange(N), 0])


@jax.custom_jvp
def centred_jvp(x):
    return x


centred_jvp.defjvp(lambda primals, tangents: (primals[0], tangents[0] - jnp.mean(tangents[0], axis=0)))


@jax.custom_vjp
def centred_vjp(x):
    return x


centred_vjp.defvjp(lambda x: (x, ()), lambda _, sent: (sent - jnp.mean(sent, axis=0),))


@jax.custom_vjp
def reversed_vjp(x):
    return x


reversed_vjp.defvjp(lambda x: (x, x), lambda x, sent: (-sent * jnp.cos(x),))


@jax.custom_vjp
def both_ways(x):
    """Its derivative applies it again."""
    return 1.5 * x


both_ways.defvjp(lambda x: (both_ways(x), ()), lambda _, sent: (both_ways(sent),))


@jax.custom_vjp
def straight_through(x):
    """Its derivative replaces that of a function inside, which mixes examples."""
    return centred_vjp(x)


straight_through.defvjp(lambda x: (x, ()), lambda _, sent: (sent,))


@pytest.mark.parametrize("function", [centred_jvp, centred_vjp])
def test_a_derivative_of_its_own_that_mixes_examples_is_named(function):
    """Although the function itself does not."""
    with pytest.raises(cmw.UsageError, match="but reduce_sum .* mixes the examples"):
        traced(lambda losses, logits: function(losses))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "function", [reversed_vjp, both_ways, straight_through, jax.nn.relu, jax.nn.softplus, jax.nn.softmax]
)
def test_a_derivative_of_its_own_that_keeps_examples_apart_is_followed(function):
    def couple(losses, logits):
        return losses + jnp.sum(function(logits), axis=1)

    results = []
    for promise in (False, True):
        step, state, batches = problem("mlp", couple=couple, independent_examples=promise)
        results.append(jax.jit(step)(state, *batches))
    (new, metrics), (expected, expected_metrics) = results
    assert_equal(new.replace(rng=()), expected.replace(rng=()))
    np.testing.assert_allclose(metrics["meta_grad_norm"], expected_metrics["meta_grad_norm"], rtol=1e-11)
