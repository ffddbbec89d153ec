"""L2RW and MCW through the meta step, against their formulas, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    ALPHA,
    CLASS_COUNTS,
    CLASSES,
    M,
    N,
    apply,
    batch,
    flat,
    init_model_state,
    init_params,
    per_example_losses,
)

import cmwnet_jax as cmw
from cmwnet_jax.core.class_balance import class_balanced_weights
from cmwnet_jax.core.free_weights import afresh, class_and_free_weight_fn, free_weight_fn, reweighting_optimizer

pytestmark = pytest.mark.usefixtures("x64")
WEIGHT_LR = 20.0
CLASS_WEIGHTS = class_balanced_weights(CLASS_COUNTS, beta=0.999)
EVERY_CLASS = cmw.MetaClasses(centers=np.array(CLASS_COUNTS), of_class=np.arange(CLASSES, dtype=np.int32))

METHODS = {
    "l2rw": (free_weight_fn, reweighting_optimizer()),
    "mcw": (functools.partial(class_and_free_weight_fn, CLASS_WEIGHTS), optax.sgd(WEIGHT_LR)),
}


def make(method, normalize="sum", axis_name=None, size=N, wrap=afresh, meta_loss=None):
    """(step, state) of the problem; the free weights start where no step should find them."""
    make_weight_fn, weight_optimizer = METHODS[method]
    model = functools.partial(apply, axis_name=axis_name)
    optimizer = optax.sgd(0.1)
    step = cmw.make_meta_step(
        objective=cmw.classification_objective(model, EVERY_CLASS),
        meta_loss=meta_loss or cmw.classification_meta_loss(model),
        weight_fn=make_weight_fn(axis_name=axis_name),
        optimizer=optimizer,
        weight_optimizer=weight_optimizer,
        virtual_lr=ALPHA,
        normalize=normalize,
        axis_name=axis_name,
    )
    state = cmw.MetaState.create(
        params=init_params(jax.random.key(1)),
        model_state=init_model_state(),
        weight_params=jnp.linspace(0.5, 1.5, size),
        optimizer=optimizer,
        weight_optimizer=weight_optimizer,
        rng=jax.random.key(2),
    )
    return wrap(step), state


def rows(params, examples):
    """[n, parameters], each example's gradient."""
    jacobian = jax.jit(jax.jacrev(per_example_losses))(params, examples)
    n = len(examples["label"])
    return np.stack([flat(jax.tree.map(lambda leaf, j=j: leaf[j], jacobian)) for j in range(n)])


def l2rw_weights(params, examples, meta_examples):
    """Where an example's gradient agrees with the meta set's, at the parameters as they are."""
    agreement = rows(params, examples) @ rows(params, meta_examples).mean(axis=0)
    return ALPHA * np.maximum(agreement, 0)


def mcw_weights(params, examples, meta_examples, normalize):
    """Class weights, and the agreement after a virtual step that they weigh."""
    weights = CLASS_WEIGHTS[np.asarray(examples["label"])]
    scale = {"sum": weights.sum(), "mean": len(weights), "none": 1.0}[normalize]
    jacobian = rows(params, examples)
    _, unflatten = jax.flatten_util.ravel_pytree(params)
    virtual = unflatten(flat(params) - ALPHA * (weights / scale) @ jacobian)
    agreement = jacobian @ rows(virtual, meta_examples).mean(axis=0)
    return np.maximum(weights + WEIGHT_LR * ALPHA * agreement / scale, 0)


def check_two_steps(step, state, expected_weights, divisor):
    """Weights and the classifier's gradient, of a first step and of one that follows it."""
    step = jax.jit(step)
    for seed in (0, 2):
        examples, meta_examples = batch(seed, N), batch(seed + 1, M)
        new, metrics = step(state, examples, meta_examples)
        expected = expected_weights(state.params, examples, meta_examples)
        assert 0 < np.sum(expected == 0) < N  # the clip at 0 is tried
        np.testing.assert_allclose(metrics["weights"], expected, rtol=1e-9, atol=1e-13)
        assert new.weight_params.shape == (N,)
        gradient = (expected / divisor(expected)) @ rows(state.params, examples)
        np.testing.assert_allclose(flat(state.params) - flat(new.params), 0.1 * gradient, atol=1e-12)
        state = new


def test_l2rw_weighs_by_agreement_with_the_meta_gradient():
    check_two_steps(*make("l2rw"), l2rw_weights, np.sum)


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_mcw_adds_agreement_to_the_class_weights(normalize):
    expected = functools.partial(mcw_weights, normalize=normalize)
    check_two_steps(*make("mcw", normalize), expected, np.sum if normalize == "sum" else len)


@pytest.mark.parametrize("method", METHODS)
def test_without_starting_afresh_the_last_batch_leaks(method):
    pair = batch(0, N), batch(1, M)
    got = [step(state, *pair)[1]["weights"] for step, state in (make(method), make(method, wrap=lambda s: s))]
    assert np.max(np.abs(got[0] - got[1])) > 1e-3


def test_l2rw_leaves_the_classifier_where_no_example_helps():
    """All weights are 0, and nothing is divided by their sum."""
    step, state = make("l2rw", meta_loss=lambda params, model_state, meta_batch, rng: jnp.zeros(()))
    new, metrics = jax.jit(step)(state, batch(0, N), batch(1, M))
    np.testing.assert_array_equal(metrics["weights"], np.zeros(N))
    np.testing.assert_array_equal(flat(new.params), flat(state.params))


def test_the_reweighting_optimizer_forgets_where_it_was():
    optimizer, gradients = reweighting_optimizer(), {"eps": jnp.array([-2.0, 0.0, 3.0, -0.25])}
    for start in (jnp.zeros(4), jnp.array([0.5, -8.0, 1.0, 4.0])):
        params = {"eps": start}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_array_equal(optax.apply_updates(params, updates)["eps"], [2, 0, 0, 0.25])


def test_a_class_out_of_range_is_loud():
    weight_fn = class_and_free_weight_fn(CLASS_WEIGHTS)
    weights = weight_fn(jnp.zeros(3), jnp.ones(3), jnp.array([0, -1, CLASSES]))
    np.testing.assert_array_equal(np.isnan(weights), [False, True, True])


@pytest.mark.parametrize("method", METHODS)
def test_refuses_another_number_of_weights(method):
    step, state = make(method, size=N + 1)
    with pytest.raises(
        cmw.UsageError, match=r"shape \(13,\), expected .* \(12,\) for 1 device\(s\) with 12 each"
    ):
        step(state, batch(0, N), batch(1, M))
    step, state = make(method, size=N, axis_name="devices")
    parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), (batch(0, 16), batch(1, 8)))
    states = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
    with pytest.raises(cmw.UsageError, match=r"\(16,\) for 4 device\(s\) with 4 each"):
        jax.pmap(step, axis_name="devices")(states, *parts)


@pytest.mark.parametrize("changes", [{"delayed_weights": True}, {"meta_every": 2}])
def test_weights_that_start_anew_are_learned_before_they_are_applied(changes):
    step = cmw.make_meta_step(
        objective=cmw.classification_objective(apply, EVERY_CLASS),
        meta_loss=cmw.classification_meta_loss(apply),
        weight_fn=free_weight_fn(),
        optimizer=optax.sgd(0.1),
        weight_optimizer=reweighting_optimizer(),
        virtual_lr=ALPHA,
        **changes,
    )
    for each in (step, jax.jit(step)):
        with pytest.raises(cmw.UsageError, match="meta_every above 1 or delayed_weights=True, expected"):
            afresh(each)
