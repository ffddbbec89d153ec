"""The heart: one meta step for every objective that is affine in the sample weights (Eq. 7-9).

`total(params, weights) = base(params) + sum_i weights_i * terms_i(params)` is linear in the
weights, so one `jax.vjp` of `(base, terms)` serves three times: its pullback at the weights is
the virtual gradient (Eq. 7); `jax.grad` through that pullback, which JAX transposes into one
forward-mode product, is the exact meta-gradient (Eq. 8, 10); and the same pullback at the new
weights is the classifier's gradient (Eq. 9). No second derivative of the classifier is taken. In
units of one forward pass: forward 1, virtual backward 2, meta forward and backward 3, transposed
product 2, real backward 2, which is 10 where plain training takes 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.types import (
    MetaLossFn,
    MetaState,
    Metrics,
    Objective,
    ObjectiveFn,
    PyTree,
    StepFn,
    WeightFn,
)

NORMALIZATIONS = ("sum", "mean", "none")


def make_meta_step(
    *,
    objective: ObjectiveFn,
    meta_loss: MetaLossFn,
    weight_fn: WeightFn,
    optimizer: optax.GradientTransformation,
    weight_optimizer: optax.GradientTransformation,
    virtual_lr: float | optax.Schedule,
    normalize: str = "sum",
    axis_name: str | None = None,
) -> StepFn:
    """One iteration of Algorithm 1: virtual step, weight-net update, classifier update.

    Args:
        objective: (params, model_state, batch, rng) -> (Objective, new model_state).
        meta_loss: (params, model_state, meta_batch, rng) -> scalar.
        weight_fn: (weight_params, losses [n], meta_class [n]) -> weights [n].
        optimizer: the classifier's optax optimiser.
        weight_optimizer: the weight net's optax optimiser.
        virtual_lr: alpha of Eq. 7, of a plain SGD step (Q17); a float or a schedule of the step.
        normalize: what the weights are divided by before they multiply the terms: "sum", their
            own sum without gradient (Q1; all-zero weights stay zero); "mean", n; "none", 1.
        axis_name: the pmap axis, where there is one. The batch is then the whole of the devices'
            batches, and N devices compute what one device would with all of it.

    Returns:
        A pure function, not jitted: (state, batch, meta_batch) -> (new state, metrics).

    Raises:
        UsageError: `normalize` is not one of the three.
        ValueError: on the first call, an objective, weight or meta loss of the wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import cmwnet_jax as cmw
        >>> def losses(params, xy): return (xy[0] @ params - xy[1]) ** 2
        >>> def objective(params, model_state, batch, rng):
        ...     terms = losses(params, batch)
        ...     return cmw.Objective(terms, terms, jnp.zeros(len(terms), int)), model_state
        >>> net, sgd, key = cmw.WeightNet(num_meta_classes=1), optax.sgd(0.1), jax.random.key(0)
        >>> step = cmw.make_meta_step(objective=objective,
        ...     meta_loss=lambda params, model_state, batch, rng: losses(params, batch).mean(),
        ...     weight_fn=net.apply, optimizer=sgd, weight_optimizer=optax.adam(1e-3), virtual_lr=0.1)
        >>> state = cmw.MetaState.create(params=jnp.zeros(2), optimizer=sgd, rng=key,
        ...     weight_params=net.init(key, jnp.ones(1), jnp.zeros(1, int)),
        ...     weight_optimizer=optax.adam(1e-3))
        >>> state, metrics = jax.jit(step)(state, (jnp.eye(2), jnp.ones(2)), (jnp.eye(2), jnp.ones(2)))
        >>> int(state.step), metrics["weights"].shape
        (1, (2,))
    """
    normalized = _normalization(normalize, axis_name)
    learning_rate = virtual_lr if callable(virtual_lr) else lambda step: virtual_lr

    def step(state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        batch_rng, meta_rng = _step_rngs(state, axis_name)
        linear = _linearize(objective, state, batch, batch_rng)

        def weights_of(weight_params):
            return _checked_weights(weight_fn(weight_params, linear.losses, linear.meta_class), linear.losses)

        def virtual_meta_loss(weight_params):
            virtual_grads = _gradient(linear, normalized(weights_of(weight_params)), axis_name)
            virtual_params = _sgd(state.params, virtual_grads, learning_rate(state.step))
            return _checked_meta_loss(meta_loss(virtual_params, state.model_state, meta_batch, meta_rng))

        meta_loss_value, meta_grads = jax.value_and_grad(virtual_meta_loss)(state.weight_params)
        # The *gradient* is averaged: the virtual gradient is summed over devices inside, so that
        # averaging the meta loss before `jax.grad` would count the devices twice.
        meta_loss_value, meta_grads = _pmean((meta_loss_value, meta_grads), axis_name)
        updates, weight_opt_state = weight_optimizer.update(
            meta_grads, state.weight_opt_state, state.weight_params
        )
        weight_params = optax.apply_updates(state.weight_params, updates)

        new_state, metrics = _update_classifier(
            state, linear, weights_of(weight_params), normalized, optimizer, axis_name
        )
        metrics["meta_loss"] = meta_loss_value
        metrics["meta_grad_norm"] = optax.tree.norm(meta_grads)
        return new_state.replace(weight_params=weight_params, weight_opt_state=weight_opt_state), metrics

    return step


def make_weighted_step(
    *,
    objective: ObjectiveFn,
    optimizer: optax.GradientTransformation,
    weight_fn: WeightFn | None = None,
    normalize: str = "sum",
    axis_name: str | None = None,
) -> StepFn:
    """A classifier update alone: a frozen weight net (Eq. 11, Algorithm 2), or plain training.

    Args:
        objective, optimizer, normalize, axis_name: as in `make_meta_step`.
        weight_fn: as in `make_meta_step`; None for weights of one, which is ERM.

    Returns:
        A pure function, not jitted: (state, batch) -> (new state, metrics).
    """
    normalized = _normalization(normalize, axis_name)

    def step(state: MetaState, batch: PyTree) -> tuple[MetaState, Metrics]:
        linear = _linearize(objective, state, batch, _step_rngs(state, axis_name)[0])
        if weight_fn is None:
            weights = jnp.ones_like(linear.losses)
        else:
            weights = weight_fn(state.weight_params, linear.losses, linear.meta_class)
        weights = _checked_weights(weights, linear.losses)
        return _update_classifier(state, linear, weights, normalized, optimizer, axis_name)

    return step


class _Linear(NamedTuple):
    """One forward pass of the objective, and its pullback to the parameters."""

    base: jax.Array
    terms: jax.Array
    pullback: Callable[[tuple[jax.Array, jax.Array]], tuple[PyTree]]
    losses: jax.Array
    meta_class: jax.Array
    model_state: PyTree
    aux: PyTree


def _linearize(objective: ObjectiveFn, state: MetaState, batch: PyTree, rng: jax.Array) -> _Linear:
    """`jax.vjp` of (base, terms) at the current parameters; everything else rides along."""

    def affine(params):
        out, model_state = objective(params, state.model_state, batch, rng)
        _check_objective(out)
        beside = (jax.lax.stop_gradient(out.losses), out.meta_class, model_state, out.aux)
        return (jnp.asarray(out.base, out.terms.dtype), out.terms), beside

    (base, terms), pullback, beside = jax.vjp(affine, state.params, has_aux=True)
    return _Linear(base, terms, pullback, *beside)


def _gradient(linear: _Linear, normalized_weights: jax.Array, axis_name: str | None) -> PyTree:
    """Gradient of `base + sum_i weights_i * terms_i` over all devices' examples."""
    base_weight = jnp.full_like(linear.base, 1 / _axis_size(axis_name))
    (grads,) = linear.pullback((base_weight, normalized_weights.astype(linear.terms.dtype)))
    return _psum(grads, axis_name)


def _update_classifier(
    state: MetaState,
    linear: _Linear,
    weights: jax.Array,
    normalized: Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[MetaState, Metrics]:
    """Eq. 9, by the caller's optimiser; running statistics are averaged over the devices."""
    normalized_weights = normalized(weights)
    grads = _gradient(linear, normalized_weights, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    weighted = _psum(jnp.sum(normalized_weights * linear.terms), axis_name)
    metrics = Metrics(
        loss=_pmean(jnp.mean(linear.losses), axis_name),
        objective=_pmean(linear.base, axis_name) + weighted,
        grad_norm=optax.tree.norm(grads),
        losses=linear.losses,
        weights=weights,
        **({"aux": linear.aux} if jax.tree.leaves(linear.aux) else {}),
    )
    new_state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        model_state=_pmean(linear.model_state, axis_name),
    )
    return new_state, metrics


def _sgd(params: PyTree, grads: PyTree, learning_rate: jax.Array | float) -> PyTree:
    """One plain SGD step that keeps each parameter's dtype."""
    return jax.tree.map(lambda p, g: (p - learning_rate * g).astype(p.dtype), params, grads)


def _normalization(normalize: str, axis_name: str | None) -> Callable[[jax.Array], jax.Array]:
    """Weights [n] -> weights [n], divided as `normalize` says over all devices' examples."""
    if normalize not in NORMALIZATIONS:
        raise unknown_name("normalize", normalize, NORMALIZATIONS)

    def normalized(weights):
        if normalize == "none":
            return weights
        if normalize == "mean":
            return weights / (weights.size * _axis_size(axis_name))
        total = _psum(jax.lax.stop_gradient(jnp.sum(weights)), axis_name)
        return weights / jnp.where(total == 0, 1, total)

    return normalized


def _step_rngs(state: MetaState, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Keys for the training and the meta forward pass: a function of base key, step and device."""
    rng = jax.random.fold_in(state.rng, state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    batch_rng, meta_rng = jax.random.split(rng)
    return batch_rng, meta_rng


def _axis_size(axis_name: str | None) -> int:
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


def _psum(tree: PyTree, axis_name: str | None) -> PyTree:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean over devices of the floating-point leaves; counters and random keys are alike on all."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _check_objective(out: Objective) -> None:
    """Per-example vectors of one length and a scalar base, or a ValueError that names the entry."""
    n = jnp.shape(out.terms)[:1]
    for name in ("terms", "losses", "meta_class"):
        shape = jnp.shape(getattr(out, name))
        if len(shape) != 1 or shape != n:
            raise ValueError(
                f"Objective.{name} has shape {shape}, expected [n], one entry an example, as long as "
                f"terms, {jnp.shape(out.terms)}: do not reduce it over the batch"
            )
    if jnp.shape(out.base) != ():
        raise ValueError(f"Objective.base has shape {jnp.shape(out.base)}, expected a scalar: take its mean")
    if not jnp.issubdtype(jnp.result_type(out.meta_class), jnp.integer):
        raise ValueError(
            f"Objective.meta_class has dtype {jnp.result_type(out.meta_class)}, expected an integer: "
            f"use MetaClasses.of_class[labels]"
        )


def _checked_meta_loss(value: jax.Array) -> jax.Array:
    if jnp.shape(value) != ():
        raise ValueError(f"meta_loss gave shape {jnp.shape(value)}, expected a scalar: take its mean")
    return value


def _checked_weights(weights: jax.Array, losses: jax.Array) -> jax.Array:
    if jnp.shape(weights) != jnp.shape(losses):
        raise ValueError(
            f"weight_fn gave weights of shape {jnp.shape(weights)}, expected one an example, "
            f"{jnp.shape(losses)}"
        )
    return weights
