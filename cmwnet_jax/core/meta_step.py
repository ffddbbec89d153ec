"""Meta step for every objective that is affine in the sample weights (Eq. 7-9).

Because `total(params, weights) = base(params) + sum_i weights_i * terms_i(params)` is affine in the weights,
one `jax.vjp` of `(base, terms)` is used three times. Its pullback at the weights is the virtual gradient
(Eq. 7). `jax.grad` through that pullback, which JAX transposes into one forward-mode product, is the exact
meta-gradient (Eq. 8, 10). The same pullback at the new weights is the classifier's gradient (Eq. 9). No second
derivative of the classifier is needed. In units of one forward pass, the costs are: forward 1, virtual
backward 2, meta forward and backward 3, transposed product 2, real backward 2. The total is 10, against 3 for
plain training.
"""

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core.linear import linearize, update_classifier, weigh
from cmwnet_jax.core.step_parts import (
    apply_optimizer,
    check_not_empty,
    check_weight_net,
    checked_meta_loss,
    normalization,
    pmean,
    schedule_of,
    sgd,
    step_rngs,
    varying,
    virtual_part,
    with_virtual_part,
)
from cmwnet_jax.core.switched import every
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
    meta_every: int = 1,
    delayed_weights: bool = False,
    independent_examples: bool = False,
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
        meta_every: k; the weight net learns at steps 0, k, 2k, ... and is applied at all (Algorithm 1: 1). In
            between, `meta_loss` and `meta_grad_norm` are NaN. In a compiled program, this is a branch.
        delayed_weights: whether the classifier is updated with the weights from before the weight net's
            update. The virtual gradient is then also the real one, and the step costs 8 forward passes. The
            meta-gradient is the same. Not for weights that start anew with each batch (`free_weights`).
        independent_examples: a promise that each term depends on its own example alone, as without BatchNorm.
            With it, the step costs 8 forward passes, or 7 with `delayed_weights`, and one more with a `base`.
            The gradients are the same. The promise is checked on the traced objective and on derivatives
            that functions in it define (`core.independent`); `jax.checkpoint` then has no effect in it.

    Returns:
        A pure function, not jitted: (state, batch, meta_batch) -> (new state, metrics). With `meta_every` above
        1 it is a `switched.Switched`.

    Raises:
        UsageError: `normalize` is unknown, virtual_lr is not positive, or meta_every is below 1; on the first
            call, if the filter selects nothing, an objective, weight or meta loss has the wrong shape, weight
            net and objective differ in the number of meta-classes, the state has no weight_params or
            weight_opt_state, or that of another optimiser, an optimiser needs a line search,
            `shard_map` splits examples over an axis other than `axis_name`, or an operation breaks the promise
            of `independent_examples`.

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
        check_weight_net(state, objective, weight_fn, learns=True)
        batch_rng, meta_rng = step_rngs(state, axis_name)
        linear = linearize(objective, state, batch, batch_rng, axis_name, independent_examples)

        def weighted(weight_params):
            weights = weight_fn(weight_params, linear.losses, linear.meta_class)
            return weigh(linear, weights, normalized, axis_name)

        def virtual_meta_loss(weight_params):
            before = weighted(weight_params)
            params, grads = (
                virtual_part(tree, state.params, virtual_filter) for tree in (state.params, before.grads)
            )
            virtual_params = with_virtual_part(state.params, sgd(params, grads, learning_rate(state.step)))
            value = meta_loss(virtual_params, state.model_state, meta_batch, meta_rng)
            return checked_meta_loss(value, axis_name), before

        own_weight_params = varying(state.weight_params, axis_name)
        differentiated = jax.value_and_grad(virtual_meta_loss, has_aux=True)
        (meta_loss_value, before), meta_grads = differentiated(own_weight_params)
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

        after = before if delayed_weights else weighted(weight_params)
        new_state, metrics = update_classifier(state, linear, after, optimizer, axis_name)
        metrics["meta_loss"] = meta_loss_value
        metrics["meta_grad_norm"] = optax.tree.norm(meta_grads)
        return new_state.replace(weight_params=weight_params, weight_opt_state=weight_opt_state), metrics

    step.delayed_weights = delayed_weights
    between = make_weighted_step(
        objective=objective, optimizer=optimizer, weight_fn=weight_fn, normalize=normalize, axis_name=axis_name
    )
    return every(meta_every, step, _without_meta(between, meta_loss))


def _without_meta(step: StepFn, meta_loss: MetaLossFn) -> StepFn:
    """The step with the signature and the metrics of a meta step; those of the meta half are NaN."""

    def run(state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(meta_batch=meta_batch)
        value = jax.eval_shape(meta_loss, state.params, state.model_state, meta_batch, state.rng)
        norm = jax.eval_shape(optax.tree.norm, state.weight_params)
        state, metrics = step(state, batch)
        missing = {"meta_loss": value, "meta_grad_norm": norm}
        return state, {**metrics, **{name: jnp.full((), jnp.nan, x.dtype) for name, x in missing.items()}}

    return run


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
        A pure function, not jitted: (state, batch) -> (new state, metrics). The state may be that of a meta
        step, e.g. for a warm-up.

    Raises:
        UsageError: `normalize` is unknown; on the first call, if the batch is empty, the objective's or the
            weights' shapes are wrong, the state has no parameters for `weight_fn`, or the weight net has
            another K than the objective.
    """
    normalized = normalization(normalize, axis_name)

    def step(state: MetaState, batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(batch=batch)
        linear = linearize(objective, state, batch, step_rngs(state, axis_name)[0], axis_name)
        if weight_fn is None:
            weights = jnp.ones_like(linear.losses)
        else:
            check_weight_net(state, objective, weight_fn, learns=False)
            weights = weight_fn(state.weight_params, linear.losses, linear.meta_class)
        weighted = weigh(linear, weights, normalized, axis_name)
        return update_classifier(state, linear, weighted, optimizer, axis_name)

    return step
