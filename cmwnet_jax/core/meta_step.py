"""Meta step for every objective that is affine in the sample weights (Eq. 7-9).

Because `total(params, weights) = base(params) + sum_i weights_i * terms_i(params)` is affine in the weights,
one `jax.vjp` of `(base, terms)` is used three times. Its pullback at the weights is the virtual gradient
(Eq. 7). `jax.grad` through that pullback, which JAX transposes into one forward-mode product, is the exact
meta-gradient (Eq. 8, 10). The same pullback at the new weights is the classifier's gradient (Eq. 9). No second
derivative of the classifier is needed. In units of one forward pass, the costs are: forward 1, virtual
backward 2, meta forward and backward 3, transposed product 2, real backward 2. The total is 10, against 3 for
plain training.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core.step_parts import (
    apply_optimizer,
    axis_size,
    check_axes,
    check_meta_classes,
    check_not_empty,
    check_objective,
    checked_meta_loss,
    checked_weights,
    normalization,
    pmean,
    psum,
    schedule_of,
    sgd,
    step_rngs,
    varying,
    virtual_part,
    with_virtual_part,
)
from cmwnet_jax.core.types import (
    MetaLossFn,
    MetaState,
    Metrics,
    ObjectiveFn,
    PyTree,
    StepFn,
    VirtualFilter,
    WeightFn,
)


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
    virtual_filter: VirtualFilter | None = None,
) -> StepFn:
    """Makes one iteration of Algorithm 1: virtual step, weight-net update, classifier update.

    Args:
        objective: (params, model_state, batch, rng) -> (Objective, new model_state).
        meta_loss: (params, model_state, meta_batch, rng) -> scalar.
        weight_fn: (weight_params, losses [n], meta_class [n]) -> weights [n].
        optimizer: the classifier's optax optimiser. If it takes a `value`, it gets the weighted loss over all
            devices. Line searches are not supported.
        weight_optimizer: the weight net's optax optimiser; its `value` is the meta loss.
        virtual_lr: alpha of Eq. 7, the learning rate of a plain SGD step (Q17); a float or a schedule.
        normalize: the divisor of the weights before they multiply the terms: "sum", their own sum without
            gradient (Q1; all-zero weights stay zero); "mean", n; "none", 1.
        axis_name: axis of `pmap` or `shard_map`, if any. The batch is then the union of the devices' batches:
            N devices compute what one device would with all of it, and the new state is equal on all. Use
            None under `jit`, where a sharded array is one array.
        virtual_filter: params -> bools with the structure of params or of its upper levels; selects the
            parameters that the virtual step changes. None changes all, as in the paper. With the last layers
            only, e.g. `lambda params: {name: name == "Dense_2" for name in params}`, the meta-gradient is
            cheaper but approximate.

    Returns:
        A pure function, not jitted: (state, batch, meta_batch) -> (new state, metrics).

    Raises:
        UsageError: `normalize` is unknown, or virtual_lr is not positive; on the first call, if the filter
            selects nothing, an objective, weight or meta loss has the wrong shape, weight net and objective
            differ in the number of meta-classes, an optimiser needs a line search, or `shard_map` splits
            examples over an axis other than `axis_name`.

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
    normalized = normalization(normalize, axis_name)
    learning_rate = schedule_of(virtual_lr)

    def step(state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(batch=batch, meta_batch=meta_batch)
        check_meta_classes(objective, weight_fn)
        batch_rng, meta_rng = step_rngs(state, axis_name)
        linear = _linearize(objective, state, batch, batch_rng, axis_name)

        def weights_of(weight_params):
            return checked_weights(weight_fn(weight_params, linear.losses, linear.meta_class), linear.losses)

        def virtual_meta_loss(weight_params):
            virtual_grads = _gradient(linear, normalized(weights_of(weight_params)), axis_name)
            params, grads = (
                virtual_part(tree, state.params, virtual_filter) for tree in (state.params, virtual_grads)
            )
            virtual_params = with_virtual_part(state.params, sgd(params, grads, learning_rate(state.step)))
            value = meta_loss(virtual_params, state.model_state, meta_batch, meta_rng)
            return checked_meta_loss(value, axis_name)

        own_weight_params = varying(state.weight_params, axis_name)
        meta_loss_value, meta_grads = jax.value_and_grad(virtual_meta_loss)(own_weight_params)
        # Average the *gradient*: the virtual gradient is already summed over devices, so averaging
        # the meta loss before `jax.grad` would count the devices twice.
        meta_loss_value, meta_grads = pmean((meta_loss_value, meta_grads), axis_name)
        weight_params, weight_opt_state = apply_optimizer(
            "weight_optimizer",
            weight_optimizer,
            meta_grads,
            state.weight_opt_state,
            state.weight_params,
            meta_loss_value,
        )

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
    """Makes a classifier update alone, with a frozen weight net (Eq. 11, Algorithm 2) or for plain training.

    Args:
        objective, optimizer, normalize, axis_name: as in `make_meta_step`.
        weight_fn: as in `make_meta_step`; None for weights of 1 (ERM).

    Returns:
        A pure function, not jitted: (state, batch) -> (new state, metrics).
    """
    normalized = normalization(normalize, axis_name)

    def step(state: MetaState, batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(batch=batch)
        linear = _linearize(objective, state, batch, step_rngs(state, axis_name)[0], axis_name)
        if weight_fn is None:
            weights = jnp.ones_like(linear.losses)
        else:
            check_meta_classes(objective, weight_fn)
            weights = weight_fn(state.weight_params, linear.losses, linear.meta_class)
        weights = checked_weights(weights, linear.losses)
        return _update_classifier(state, linear, weights, normalized, optimizer, axis_name)

    return step


class _Linear(NamedTuple):
    """One forward pass of the objective, with its pullback to the parameters."""

    base: jax.Array
    terms: jax.Array
    pullback: Callable[[tuple[jax.Array, jax.Array]], tuple[PyTree]]
    losses: jax.Array
    meta_class: jax.Array
    model_state: PyTree
    aux: PyTree


def _linearize(
    objective: ObjectiveFn, state: MetaState, batch: PyTree, rng: jax.Array, axis_name: str | None
) -> _Linear:
    """`jax.vjp` of (base, terms) at the current parameters; all other outputs are auxiliary."""

    def affine(params):
        out, model_state = objective(params, state.model_state, batch, rng)
        check_objective(out)
        beside = (jax.lax.stop_gradient(out.losses), out.meta_class, model_state, out.aux)
        return varying((jnp.asarray(out.base, out.terms.dtype), out.terms), axis_name), beside

    params = varying(state.params, axis_name)
    (base, terms), pullback, beside = jax.vjp(affine, params, has_aux=True)
    check_axes(params, terms)
    return _Linear(base, terms, pullback, *beside)


def _gradient(linear: _Linear, normalized_weights: jax.Array, axis_name: str | None) -> PyTree:
    """Gradient of `base + sum_i weights_i * terms_i` over all devices' examples."""
    base_weight = jnp.full_like(linear.base, 1 / axis_size(axis_name))
    cotangents = varying((base_weight, normalized_weights.astype(linear.terms.dtype)), axis_name)
    (grads,) = linear.pullback(cotangents)
    return psum(grads, axis_name)


def _update_classifier(
    state: MetaState,
    linear: _Linear,
    weights: jax.Array,
    normalized: Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[MetaState, Metrics]:
    """Eq. 9, with the caller's optimiser; running statistics are averaged over the devices."""
    normalized_weights = normalized(weights)
    grads = _gradient(linear, normalized_weights, axis_name)
    weighted = psum(jnp.sum(normalized_weights * linear.terms), axis_name)
    total = pmean(linear.base, axis_name) + weighted
    params, opt_state = apply_optimizer("optimizer", optimizer, grads, state.opt_state, state.params, total)
    metrics = Metrics(
        loss=pmean(jnp.mean(linear.losses), axis_name),
        objective=total,
        grad_norm=optax.tree.norm(grads),
        losses=linear.losses,
        weights=weights,
        **({"aux": linear.aux} if jax.tree.leaves(linear.aux) else {}),
    )
    new_state = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        model_state=pmean(linear.model_state, axis_name),
    )
    return new_state, metrics
