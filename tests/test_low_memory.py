"""The step in separate passes against the step in one program, in float64; and what each of them costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import ALPHA, M, N, apply, batch, flat, meta_classes, weight_net
from test_meta_step import NORMALIZATIONS, make

import cmwnet_jax as cmw
from cmwnet_jax.core.micro_batches import objective_in_micro_batches

FIELDS = ("step", "params", "model_state", "opt_state", "weight_params", "weight_opt_state")
OPTIMIZERS = {"optimizer": optax.sgd(0.1, momentum=0.9), "weight_optimizer": optax.sgd(1.0, momentum=0.9)}


def with_base(objective):
    """The objective with a base that depends on every parameter: a mean over the batch."""

    def wrapped(*arguments):
        out, model_state = objective(*arguments)
        return out._replace(base=jnp.mean(out.terms**2)), model_state

    return wrapped


CASES = [*((normalize, with_base) for normalize in NORMALIZATIONS), ("sum", lambda objective: objective)]


def low_memory(make_objective=lambda objective: objective, **changes):
    """(step of `make`, step in passes, state) of one problem."""
    net, _ = weight_net()
    model = functools.partial(apply, axis_name=changes.get("axis_name"))
    arguments = {
        "objective": make_objective(cmw.classification_objective(model, meta_classes())),
        "meta_loss": cmw.classification_meta_loss(model),
        "weight_fn": net.apply,
        "virtual_lr": ALPHA,
        **OPTIMIZERS,
    } | changes
    _, state = make(**OPTIMIZERS)
    in_passes = cmw.make_low_memory_step(**arguments)
    for name in ("compile", "micro_batches", "donate", "shared_forward"):
        arguments.pop(name, None)
    return cmw.make_meta_step(**arguments), in_passes, state


def assert_equal(got, expected, tolerance=1e-12):
    """States and metrics agree."""
    for field in FIELDS:
        pair = flat(getattr(got[0], field)), flat(getattr(expected[0], field))
        np.testing.assert_allclose(*pair, rtol=0, atol=tolerance, err_msg=field)
    assert got[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(got[1][name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("normalize", "make_objective"), CASES)
def test_the_passes_make_the_same_step(normalize, make_objective):
    """On examples that batch normalisation couples, with a schedule, over three steps."""
    changes = {"normalize": normalize, "virtual_lr": lambda step: ALPHA / (1 + step)}
    step, in_passes, state = low_memory(make_objective, **changes)
    expected, got = (state, None), (state, None)
    for seed in range(3):
        examples = batch(seed, N), batch(seed + 10, M)
        expected, got = jax.jit(step)(expected[0], *examples), in_passes(got[0], *examples)
        assert expected[1]["meta_grad_norm"] > 1e-4
        assert_equal(got, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shared", [False, True])
def test_the_passes_are_mapped_over_devices(shared):
    step, _, state = low_memory(with_base)
    mapped = functools.partial(jax.pmap, axis_name="devices")
    changes = {"axis_name": "devices", "compile": mapped, "donate": True, "shared_forward": shared}
    _, in_passes, _ = low_memory(with_base, **changes)
    examples = batch(0, 16), batch(1, 8)
    expected = jax.jit(step)(state, *examples)
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
    examples = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), examples)
    new, metrics = in_passes(states, *examples)
    for device in range(4):
        scalars = {name: value[device] if value.ndim == 1 else value.ravel() for name, value in metrics.items()}
        assert_equal((jax.tree.map(lambda x, d=device: x[d], new), scalars), expected)
    in_passes(new, *examples)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(new.params))  # the next ones are in their place


def uncoupled(variables, inputs, *, mutable, rngs):
    """The problem's network without normalisation: each loss is of one example."""
    del mutable, rngs
    params, old = variables["params"], variables["batch_stats"]["mean"]
    hidden = jnp.tanh(inputs @ params["w1"] * params["scale"][None])
    mean = 0.9 * old + 0.1 * jnp.mean(hidden, axis=0)
    return hidden @ params["w2"] + params["b2"][None], {"batch_stats": {"mean": mean}}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("normalize", "make_objective"), CASES)
def test_micro_batches_add_up(normalize, make_objective):
    """Where examples are not coupled; the running statistics move once, to what the whole batch says."""
    plain = {
        "objective": make_objective(cmw.classification_objective(uncoupled, meta_classes())),
        "meta_loss": cmw.classification_meta_loss(uncoupled),
        "normalize": normalize,
    }
    step, in_passes, state = low_memory(**plain, micro_batches=4)
    examples = batch(0, N), batch(1, 8)
    expected = jax.jit(step)(state, *examples)
    assert_equal(in_passes(state, *examples), expected)
    # The default step takes them too: an objective in micro-batches is an objective.
    plain["objective"] = objective_in_micro_batches(plain["objective"], 3)
    assert_equal(jax.jit(low_memory(**plain)[0])(state, *examples), expected)


@pytest.mark.usefixtures("x64")
def test_each_micro_batch_draws_its_own_numbers():
    def objective(params, model_state, examples, rng):
        losses = params * examples + jax.random.uniform(rng)
        return cmw.Objective(losses, losses, jnp.zeros(len(losses), jnp.int32)), model_state

    out, _ = objective_in_micro_batches(objective, 2)(jnp.ones(()), {}, jnp.zeros(4), jax.random.key(0))
    assert out.terms[0] == out.terms[1] != out.terms[2]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("micro_batches", "message"),
    [
        (0, "micro_batches is 0, expected a whole number"),
        (2.5, "micro_batches is 2.5, expected a whole number"),
        (5, r"micro_batches is 5 .*shape \(12, 5\), expected"),
    ],
)
def test_micro_batches_that_do_not_fit_are_named(micro_batches, message):
    with pytest.raises(cmw.UsageError, match=message):
        _, in_passes, state = low_memory(micro_batches=micro_batches)
        in_passes(state, batch(0, N), batch(1, M))


@pytest.mark.usefixtures("x64")
def test_a_reduced_objective_is_named_in_micro_batches_too():
    def reduce(objective):
        def reduced(*arguments):
            out, model_state = objective(*arguments)
            return out._replace(terms=jnp.mean(out.terms)), model_state

        return reduced

    _, in_passes, state = low_memory(reduce, micro_batches=2)
    with pytest.raises(ValueError, match=r"Objective.terms has shape \(\), expected \[n\]"):
        in_passes(state, batch(0, N), batch(1, 8))


@pytest.mark.usefixtures("x64")
def test_two_terms_per_example_keep_their_order_in_micro_batches():
    """All own labels' terms first, then all partners', by which callers find those of an example."""

    def objective(params, model_state, examples, rng):
        losses = jnp.concatenate([params * examples, params * (100 + examples)])
        return cmw.Objective(losses, losses, losses.astype(int), aux=examples), model_state

    objective.terms_per_example, objective.num_meta_classes = 2, 200
    examples = jnp.arange(6.0)
    cut = objective_in_micro_batches(objective, 3)
    out, _ = cut(jnp.ones(()), {}, examples, jax.random.key(0))
    expected = objective(jnp.ones(()), {}, examples, ())[0]
    jax.tree.map(np.testing.assert_array_equal, out, expected)
    assert cut.num_meta_classes == 200


@pytest.mark.usefixtures("x64")
def test_a_function_without_a_forward_mode_is_named():
    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, ()), lambda _, sent: (sent,))

    def wrapped(objective):
        def own(*arguments):
            out, model_state = objective(*arguments)
            return out._replace(terms=same(out.terms)), model_state

        return own

    examples = batch(0, N), batch(1, M)
    step, in_passes, state = low_memory(wrapped)
    with pytest.raises(cmw.UsageError, match="custom_vjp, which has no forward mode.*shared_forward=True"):
        in_passes(state, *examples)
    shared = low_memory(wrapped, shared_forward=True)[1]
    assert_equal(shared(state, *examples), jax.jit(step)(state, *examples))


def only(*names):
    """A virtual filter for the parameters of these names."""
    return lambda params: {name: name in names for name in params}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("names", [("w2", "b2"), ("w1",)])
def test_a_virtual_filter_is_a_step_of_rate_zero_elsewhere(names):
    """Its meta-gradient against automatic differentiation of the masked virtual step, by both forms."""
    step, in_passes, state = low_memory(virtual_filter=only(*names))
    _, shared, _ = low_memory(virtual_filter=only(*names), shared_forward=True)
    examples = batch(0, N), batch(1, M)
    net, _ = weight_net()
    objective = cmw.classification_objective(apply, meta_classes())

    def meta_loss(weight_params):
        def total(params):
            out, _ = objective(params, state.model_state, examples[0], state.rng)
            weights = net.apply(weight_params, jax.lax.stop_gradient(out.losses), out.meta_class)
            return jnp.sum(weights / jax.lax.stop_gradient(jnp.sum(weights)) * out.terms)

        grads = jax.grad(total)(state.params)
        moved = {name: p - ALPHA * (name in names) * grads[name] for name, p in state.params.items()}
        return cmw.classification_meta_loss(apply)(moved, state.model_state, examples[1], state.rng)

    value, gradient = jax.jit(jax.value_and_grad(meta_loss))(state.weight_params)
    results = [each(state, *examples) for each in (jax.jit(step), in_passes, shared)]
    for new, metrics in results:
        moved = flat(state.weight_params) - flat(new.weight_params)
        np.testing.assert_allclose(moved, flat(gradient), rtol=0, atol=1e-12)
        np.testing.assert_allclose(metrics["meta_loss"], value, rtol=1e-12)
        assert np.all(np.asarray(new.params["scale"] != state.params["scale"]))  # the real step moves all
    for result in results[1:]:
        assert_equal(result, results[0])


def test_nothing_is_shared_with_delayed_weights():
    with pytest.raises(cmw.UsageError, match="shared_forward is True, but with delayed_weights"):
        low_memory(shared_forward=True, delayed_weights=True)


@pytest.mark.usefixtures("x64")
def test_a_virtual_filter_that_selects_nothing_is_named():
    for step in low_memory(virtual_filter=only())[:2]:
        with pytest.raises(cmw.UsageError, match="virtual_filter selects no parameter"):
            step(low_memory()[2], batch(0, N), batch(1, M))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("virtual_filter", "message"),
    [
        (
            lambda params: {"w1": True},
            "virtual_filter gave PyTreeDef.*, expected the structure of",
        ),
        (lambda params: jnp.sum(params["w1"]) > 0, "virtual_filter gave .*Tracer, expected Python's bools"),
    ],
)
def test_a_virtual_filter_of_something_else_is_named(virtual_filter, message):
    step, _, state = low_memory(virtual_filter=virtual_filter)
    with pytest.raises(cmw.UsageError, match=message):
        jax.jit(step)(state, batch(0, N), batch(1, M))
