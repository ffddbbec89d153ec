"""Optimisers that read the loss, in each kind of step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cmwnet_jax as cmw

EXAMPLES = jnp.array([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.1]]), jnp.array([1.0, -2.0, 0.5])
META_EXAMPLES = EXAMPLES[0][:2] + 1, EXAMPLES[1][:2]
NET = cmw.WeightNet(num_meta_classes=1, hidden=4)

strict = optax.GradientTransformationExtraArgs(
    lambda params: jnp.zeros(()), lambda updates, state, params=None, *, value: (updates, value)
)
"""Its state is the `value` that it was given, and it takes nothing else."""


def losses_of(params, examples):
    return (examples[0] @ params - examples[1]) ** 2


def objective(params, model_state, examples, rng):
    losses = losses_of(params, examples)
    out = cmw.Objective(losses, losses, jnp.zeros(len(losses), int), base=jnp.sum(params**2))
    return out, model_state


def problem(kind, optimizer, weight_optimizer=None):
    """(step of (state, batch, meta batch), state)."""
    optimizers = {"optimizer": optimizer, "weight_optimizer": weight_optimizer or optimizer}
    arguments = optimizers | {"objective": objective, "weight_fn": NET.apply, "virtual_lr": 0.1}
    arguments["meta_loss"] = lambda params, model_state, examples, rng: jnp.mean(losses_of(params, examples))
    if kind == "weighted":
        weighted = cmw.make_weighted_step(objective=objective, weight_fn=NET.apply, optimizer=optimizer)
        step = jax.jit(lambda state, batch, meta_batch: weighted(state, batch))
    else:
        step = (
            cmw.make_low_memory_step(**arguments)
            if kind == "in passes"
            else jax.jit(cmw.make_meta_step(**arguments))
        )
    weight_params = NET.init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, int))
    return step, cmw.MetaState.create(
        params=jnp.array([0.5, -0.5]), weight_params=weight_params, rng=jax.random.key(1), **optimizers
    )


KINDS = ("one program", "in passes", "weighted")


@pytest.mark.parametrize("kind", KINDS)
def test_value_is_the_loss_that_is_minimised(kind):
    step, state = problem(kind, strict)
    new, metrics = step(state, EXAMPLES, META_EXAMPLES)
    weights = metrics["weights"] / jnp.sum(metrics["weights"])
    total = jnp.sum(weights * losses_of(state.params, EXAMPLES)) + jnp.sum(state.params**2)
    np.testing.assert_allclose(new.opt_state, total, rtol=1e-5)
    np.testing.assert_allclose(metrics["objective"], total, rtol=1e-5)
    expected = 0 if kind == "weighted" else metrics["meta_loss"]
    np.testing.assert_allclose(new.weight_opt_state, expected, rtol=1e-6)


READERS = {
    "polyak": optax.polyak_sgd(),
    "momo": optax.contrib.momo(0.1),
    "plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    "l-bfgs": optax.lbfgs(0.1, linesearch=None),
    "every second step": optax.MultiSteps(optax.polyak_sgd(), 2),
    "injected": optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=0.5),
    "that read none": optax.chain(optax.clip(1.0), optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05))),
}


@pytest.mark.parametrize("name", READERS)
def test_optimizers_move_as_optax_has_them(name):
    """Three plain steps against optax alone, inside of a scan: the state keeps its shapes."""
    optimizer = READERS[name]
    step = cmw.make_weighted_step(objective=objective, optimizer=optimizer, normalize="mean")
    state = cmw.MetaState.create(params=jnp.array([0.5, -0.5]), optimizer=optimizer, rng=jax.random.key(1))
    scanned, _ = jax.lax.scan(lambda state, _: step(state, EXAMPLES), state, length=3)

    params, opt_state = state.params, optimizer.init(state.params)
    for _ in range(3):
        value, grads = jax.value_and_grad(lambda p: jnp.mean(losses_of(p, EXAMPLES)) + jnp.sum(p**2))(params)
        extra = {} if name == "that read none" else {"value": value}
        updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(scanned.params, params, rtol=1e-5)
