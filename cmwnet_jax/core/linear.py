"""One forward pass of an objective with its pullback, and what steps make of it: gradients and an update."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core import independent
from cmwnet_jax.core.step_parts import (
    apply_optimizer,
    axis_size,
    check_axes,
    check_objective,
    checked_weights,
    pmean,
    psum,
    varying,
)
from cmwnet_jax.core.types import MetaState, Metrics, ObjectiveFn, PyTree


class Linear(NamedTuple):
    """One forward pass of the objective, with its pullback to the parameters."""

    base: jax.Array
    terms: jax.Array
    pullback: Callable[[tuple[jax.Array, jax.Array]], tuple[PyTree]]
    losses: jax.Array
    meta_class: jax.Array
    model_state: PyTree
    aux: PyTree


class Weighted(NamedTuple):
    """Weights [n], the same after normalisation, and the gradient of the objective with them."""

    weights: jax.Array
    normalized: jax.Array
    grads: PyTree


def linearize(
    objective: ObjectiveFn,
    state: MetaState,
    batch: PyTree,
    rng: jax.Array,
    axis_name: str | None,
    independent_examples: bool = False,
) -> Linear:
    """The pullback of (base, terms) at the current parameters; all other outputs are auxiliary.

    Args:
        objective, axis_name, independent_examples: as in `make_meta_step`.
        state: the current state.
        batch: the batch.
        rng: the key of the forward pass.
    """

    def affine(params, batch):
        out, model_state = objective(params, state.model_state, batch, rng)
        check_objective(out)
        beside = (jax.lax.stop_gradient(out.losses), out.meta_class, model_state, out.aux)
        return varying((jnp.asarray(out.base, out.terms.dtype), out.terms), axis_name), beside

    params = varying(state.params, axis_name)
    if independent_examples:
        (base, terms), pullback, beside = independent.vjp(affine, params, batch, axis_name)
    else:
        (base, terms), pullback, beside = jax.vjp(lambda params: affine(params, batch), params, has_aux=True)
    check_axes(params, terms)
    return Linear(base, terms, pullback, *beside)


def weigh(
    linear: Linear, weights: jax.Array, normalized: Callable[[jax.Array], jax.Array], axis_name: str | None
) -> Weighted:
    """The gradient of `base + sum_i weights_i * terms_i`, with normalised weights, over all devices' examples.

    Args:
        linear: the forward pass.
        weights: [n], before normalisation.
        normalized: from `step_parts.normalization`.
        axis_name: as in `make_meta_step`.
    """
    divided = normalized(checked_weights(weights, linear.losses))
    base_weight = jnp.full_like(linear.base, 1 / axis_size(axis_name))
    cotangents = varying((base_weight, divided.astype(linear.terms.dtype)), axis_name)
    (grads,) = linear.pullback(cotangents)
    return Weighted(weights, divided, psum(grads, axis_name))


def update_classifier(
    state: MetaState,
    linear: Linear,
    weighted: Weighted,
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[MetaState, Metrics]:
    """Eq. 9, with the caller's optimiser; running statistics are averaged over the devices."""
    total = pmean(linear.base, axis_name) + psum(jnp.sum(weighted.normalized * linear.terms), axis_name)
    params, opt_state = apply_optimizer(
        "optimizer", optimizer, weighted.grads, state.opt_state, state.params, total
    )
    metrics = Metrics(
        loss=pmean(jnp.mean(linear.losses), axis_name),
        objective=total,
        grad_norm=optax.tree.norm(weighted.grads),
        losses=linear.losses,
        weights=weighted.weights,
        **({"aux": linear.aux} if jax.tree.leaves(linear.aux) else {}),
    )
    new_state = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        model_state=pmean(linear.model_state, axis_name),
    )
    return new_state, metrics
