"""Low-memory meta step: the gradients of `make_meta_step` at about the peak memory of plain training.

`make_meta_step` keeps the activations of its forward pass until the end, beside those of the meta pass. Here
no two passes hold activations at the same time. The meta-gradient is computed in forward mode. By Eq. 10, the
derivative of the meta loss by the normalised weight of example i is `-alpha * <gradient of terms_i, v>`, where
v is the gradient of the meta loss at the virtual parameters. One `jax.jvp` of the terms along v gives all
these products and stores no activations. In units of one forward pass, the costs are: virtual gradient 3, v 3,
products 3, real gradient 3. The total is 12, against 10 for `make_meta_step` and 3 for plain training.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core.meta_step import make_weighted_step
from cmwnet_jax.core.step_parts import (
    apply_optimizer,
    check_not_empty,
    check_objective,
    checked_meta_loss,
    checked_weights,
    normalization,
    pmean,
    psum,
    schedule_of,
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
from cmwnet_jax.errors import UsageError


def make_low_memory_step(
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
    micro_batches: int = 1,
    compile: Callable[..., Callable] = jax.jit,
    donate: bool = False,
) -> StepFn:
    """As `make_meta_step`, in four separately compiled programs, so that none keeps another's activations.

    Args:
        objective, meta_loss, weight_fn, optimizer, weight_optimizer, virtual_lr, normalize, axis_name,
            virtual_filter: as in `make_meta_step`.
        micro_batches: number of parts into which both batches are cut, processed in sequence; see
            `objective_in_micro_batches`.
        compile: applied to each of the four functions; with `axis_name`, use
            `functools.partial(jax.pmap, axis_name=axis_name)`.
        donate: whether the last program may overwrite the old state, which cannot be used afterwards; that
            program is compiled with `donate_argnums=(0,)`.

    Returns:
        (state, batch, meta_batch) -> (new state, metrics), with the results of `make_meta_step`. Do not jit
        it: XLA would merge the passes and keep the activations.

    Raises:
        UsageError: as `make_meta_step`; `micro_batches` is below 1 or does not divide a batch.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import cmwnet_jax as cmw
        >>> def losses(params, xy): return (xy[0] @ params - xy[1]) ** 2
        >>> def objective(params, model_state, batch, rng):
        ...     terms = losses(params, batch)
        ...     return cmw.Objective(terms, terms, jnp.zeros(len(terms), int)), model_state
        >>> net, sgd, key = cmw.WeightNet(num_meta_classes=1), optax.sgd(0.1), jax.random.key(0)
        >>> step = cmw.make_low_memory_step(objective=objective, micro_batches=2,
        ...     meta_loss=lambda params, model_state, batch, rng: losses(params, batch).mean(),
        ...     weight_fn=net.apply, optimizer=sgd, weight_optimizer=optax.adam(1e-3), virtual_lr=0.1)
        >>> state = cmw.MetaState.create(params=jnp.zeros(2), optimizer=sgd, rng=key,
        ...     weight_params=net.init(key, jnp.ones(1), jnp.zeros(1, int)),
        ...     weight_optimizer=optax.adam(1e-3))
        >>> state, metrics = step(state, (jnp.eye(2), jnp.ones(2)), (jnp.eye(2), jnp.ones(2)))
        >>> int(state.step), metrics["weights"].shape
        (1, (2,))
    """
    if micro_batches != 1:
        objective = objective_in_micro_batches(objective, micro_batches)
        meta_loss = meta_loss_in_micro_batches(meta_loss, micro_batches)
    learning_rate = schedule_of(virtual_lr)
    shared = {"objective": objective, "weight_fn": weight_fn, "normalize": normalize, "axis_name": axis_name}
    virtual_step = compile(_virtual_pass(shared, learning_rate, virtual_filter))
    meta_gradient = compile(_meta_pass(meta_loss, axis_name))
    update_weight_net = compile(_weight_pass(shared, weight_optimizer, learning_rate, virtual_filter))
    over_the_old = {"donate_argnums": (0,)} if donate else {}
    update_classifier = compile(make_weighted_step(optimizer=optimizer, **shared), **over_the_old)

    def step(state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(batch=batch, meta_batch=meta_batch)
        meta_loss_value, direction = meta_gradient(state, virtual_step(state, batch), meta_batch)
        changes, meta_grad_norm = update_weight_net(state, batch, direction, meta_loss_value)
        del direction  # as large as the parameters, and not needed any more
        new_state, metrics = update_classifier(state.replace(**changes), batch)
        return new_state, {**metrics, "meta_loss": meta_loss_value, "meta_grad_norm": meta_grad_norm}

    return step


def _virtual_pass(shared: dict[str, Any], learning_rate: optax.Schedule, virtual_filter: VirtualFilter | None):
    """(state, batch) -> the selected parameters after the virtual step of weighted SGD (Eq. 7)."""
    plain_sgd = optax.GradientTransformation(
        init=lambda params: jnp.zeros((), jnp.int32),
        update=lambda grads, step, params: (optax.tree.scale(-learning_rate(step), grads), step),
    )
    weighted_step = make_weighted_step(optimizer=plain_sgd, **shared)

    def virtual_pass(state, batch):
        virtual, _ = weighted_step(state.replace(opt_state=state.step), batch)
        return virtual_part(virtual.params, state.params, virtual_filter)

    return virtual_pass


def _meta_pass(meta_loss: MetaLossFn, axis_name: str | None):
    """(state, virtual part, meta_batch) -> the meta loss and its gradient there, which is v of Eq. 10."""

    def meta_pass(state, part, meta_batch):
        _, meta_rng = step_rngs(state, axis_name)

        def loss_at(part):
            virtual_params = with_virtual_part(state.params, part)
            value = meta_loss(virtual_params, state.model_state, meta_batch, meta_rng)
            return checked_meta_loss(value, axis_name)

        return pmean(jax.value_and_grad(loss_at)(varying(part, axis_name)), axis_name)

    return meta_pass


def _weight_pass(shared, weight_optimizer, learning_rate: optax.Schedule, virtual_filter: VirtualFilter | None):
    """(state, batch, v, meta loss) -> weight-net fields after Eq. 8, and the meta-gradient's norm."""
    axis_name, weight_fn = shared["axis_name"], shared["weight_fn"]
    normalized = normalization(shared["normalize"], axis_name)

    def weight_pass(state, batch, direction, meta_loss_value):
        batch_rng, _ = step_rngs(state, axis_name)

        def terms_at(part):
            params = with_virtual_part(state.params, part)
            out, _ = shared["objective"](params, state.model_state, batch, batch_rng)
            check_objective(out)
            return out.terms, (out.losses, out.meta_class)

        part = virtual_part(state.params, state.params, virtual_filter)
        _, slopes, (losses, meta_class) = jax.jvp(terms_at, (part,), (direction,), has_aux=True)

        def meta_loss_to_first_order(weight_params):
            weights = checked_weights(weight_fn(weight_params, losses, meta_class), losses)
            return -learning_rate(state.step) * jnp.sum(normalized(weights) * slopes)

        # Sum over all devices, because examples are summed; v is already the mean over devices.
        own_weight_params = varying(state.weight_params, axis_name)
        meta_grads = psum(jax.grad(meta_loss_to_first_order)(own_weight_params), axis_name)
        weight_params, weight_opt_state = apply_optimizer(
            "weight_optimizer",
            weight_optimizer,
            meta_grads,
            state.weight_opt_state,
            state.weight_params,
            meta_loss_value,
        )
        changes = {"weight_params": weight_params, "weight_opt_state": weight_opt_state}
        return changes, optax.tree.norm(meta_grads)

    return weight_pass


def objective_in_micro_batches(objective: ObjectiveFn, micro_batches: int) -> ObjectiveFn:
    """Wraps an objective: computes it on one part of the batch after the other, in a loop.

    Gradients are accumulated. Each part's activations are recomputed instead of stored (`jax.checkpoint`), so
    the peak memory is that of one part; in return, each gradient needs one more forward pass. The result is
    exact if examples are independent. BatchNorm uses the statistics of each part, and its running statistics
    are updated once, to the mean of the parts' updates. On a CPU, convolutions in loops are slow.

    Args:
        objective: as in `make_meta_step`; its `base` must be a mean over the batch.
        micro_batches: number of parts of equal size.

    Returns:
        An objective for any step; the first axis of all leaves of a batch must be the examples.

    Raises:
        UsageError: `micro_batches` is below 1; on the first call, if it does not divide the batch.
    """

    def checked(*arguments):
        out, model_state = objective(*arguments)
        check_objective(out)  # here, because a stacked scalar would look like an example's term
        return out, model_state

    in_parts = _in_parts(checked, micro_batches)

    def whole(params, model_state, batch, rng):
        out, model_states = in_parts(params, model_state, batch, rng)
        joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out._replace(base=()))
        return joined._replace(base=jnp.mean(out.base)), jax.tree.map(_mean_over_parts, model_states)

    whole.num_meta_classes = getattr(objective, "num_meta_classes", None)
    return whole


def meta_loss_in_micro_batches(meta_loss: MetaLossFn, micro_batches: int) -> MetaLossFn:
    """Wraps a meta loss, a mean over examples, in the way of `objective_in_micro_batches`.

    Args:
        meta_loss: as in `make_meta_step`, a mean over the meta batch.
        micro_batches: number of parts of equal size.
    """
    in_parts = _in_parts(meta_loss, micro_batches)
    return lambda *arguments: jnp.mean(in_parts(*arguments), axis=0)


def _in_parts(function: Callable, micro_batches: int) -> Callable:
    """The function's outputs on all parts, leaves [...] stacked to [micro_batches, ...]."""
    if micro_batches < 1:
        raise UsageError(f"micro_batches is {micro_batches}, expected at least 1: 1 does not cut the batch")

    def split(leaf):
        if not jnp.ndim(leaf) or len(leaf) % micro_batches:
            raise UsageError(
                f"micro_batches is {micro_batches} and a batch has an array of shape {jnp.shape(leaf)}, "
                f"expected the examples on its first axis, as many as micro_batches divides: change either"
            )
        return leaf.reshape(micro_batches, -1, *leaf.shape[1:])

    def in_parts(params, model_state, batch, rng):
        @jax.checkpoint
        def on_part(params, model_state, part, rng):
            return function(params, model_state, part, rng)

        parts = jax.tree.map(split, batch), jax.random.split(rng, micro_batches)
        return jax.lax.scan(lambda _, x: ((), on_part(params, model_state, *x)), (), parts)[1]

    return in_parts


def _mean_over_parts(stacked: jax.Array) -> jax.Array:
    """Averages running statistics; counters and random keys are equal in all parts."""
    return jnp.mean(stacked, axis=0) if jnp.issubdtype(stacked.dtype, jnp.floating) else stacked[0]
