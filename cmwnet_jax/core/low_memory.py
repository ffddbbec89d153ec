"""The meta step for models that fill the memory: the same gradients at about plain training's peak.

`make_meta_step` holds the activations of its forward pass until the end, beside those of the meta pass.
Here no two passes hold activations at once. The meta-gradient is taken in forward mode: by Eq. 10 the
slope of the meta loss by the normalised weight of example i is `-alpha * <gradient of terms_i, v>`, where v is
the meta loss's gradient at the virtual parameters, and one `jax.jvp` of the terms along v gives all of
these products and stores nothing. In units of one forward pass: virtual gradient 3, v 3, products 3,
real gradient 3, which is 12 where `make_meta_step` takes 10 and plain training 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core.meta_step import make_weighted_step
from cmwnet_jax.core.step_parts import (
    apply_optimizer,
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
    """`make_meta_step` in four programs, each compiled apart, so that none holds another's activations.

    Args:
        objective, meta_loss, weight_fn, optimizer, weight_optimizer, virtual_lr, normalize, axis_name,
            virtual_filter: as in `make_meta_step`.
        micro_batches: into how many parts both batches are cut, one after the other; see
            `objective_in_micro_batches`.
        compile: what each of the four functions of arrays is passed to; with `axis_name`,
            `functools.partial(jax.pmap, axis_name=axis_name)`.
        donate: whether the last of them may write the new state over the old one, which is gone then; it is
            compiled with `donate_argnums=(0,)`.

    Returns:
        (state, batch, meta_batch) -> (new state, metrics), the same as `make_meta_step`'s. To be called as it
        is: inside of one `jax.jit` the compiler merges the passes, and the activations stay.

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
        meta_loss_value, direction = meta_gradient(state, virtual_step(state, batch), meta_batch)
        changes, meta_grad_norm = update_weight_net(state, batch, direction, meta_loss_value)
        del direction  # as large as the parameters, and read by nothing that follows
        new_state, metrics = update_classifier(state.replace(**changes), batch)
        return new_state, {**metrics, "meta_loss": meta_loss_value, "meta_grad_norm": meta_grad_norm}

    return step


def _virtual_pass(shared: dict[str, Any], learning_rate: optax.Schedule, virtual_filter: VirtualFilter | None):
    """(state, batch) -> the parameters that move, after Eq. 7: a weighted step by plain SGD."""
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
    """(state, virtual part, meta_batch) -> the meta loss and its gradient there, the v of Eq. 10."""

    def meta_pass(state, part, meta_batch):
        _, meta_rng = step_rngs(state, axis_name)

        def loss_at(part):
            virtual_params = with_virtual_part(state.params, part)
            value = meta_loss(virtual_params, state.model_state, meta_batch, meta_rng)
            return checked_meta_loss(value, axis_name)

        return pmean(jax.value_and_grad(loss_at)(varying(part, axis_name)), axis_name)

    return meta_pass


def _weight_pass(shared, weight_optimizer, learning_rate: optax.Schedule, virtual_filter: VirtualFilter | None):
    """(state, batch, v, meta loss) -> the weight net's fields after Eq. 8, and the meta-gradient's norm."""
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

        # A sum over devices, of examples; v is the mean over devices already.
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
    """The same objective, computed on one part of the batch after the other, in a loop of the program.

    Its gradient is accumulated, and a part's activations are computed again rather than held
    (`jax.checkpoint`), so that the peak is one part's; in return each gradient takes a forward pass more. Exact
    where examples are not coupled: BatchNorm takes each part's statistics, and the running ones move once,
    to the mean of what each part makes of them. On CPU, convolutions are slow in loops.

    Args:
        objective: as in `make_meta_step`; its `base` is a mean over the batch.
        micro_batches: parts, all of one size.

    Returns:
        An objective for any step, of batches whose leaves all have the examples' axis first.

    Raises:
        UsageError: `micro_batches` is below 1; on the first call, it does not divide the batch.
    """

    def checked(*arguments):
        out, model_state = objective(*arguments)
        check_objective(out)  # stacked, a part's mean would look like an example's term
        return out, model_state

    in_parts = _in_parts(checked, micro_batches)

    def whole(params, model_state, batch, rng):
        out, model_states = in_parts(params, model_state, batch, rng)
        joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out._replace(base=()))
        return joined._replace(base=jnp.mean(out.base)), jax.tree.map(_mean_over_parts, model_states)

    whole.num_meta_classes = getattr(objective, "num_meta_classes", None)
    return whole


def meta_loss_in_micro_batches(meta_loss: MetaLossFn, micro_batches: int) -> MetaLossFn:
    """The same meta loss, a mean over examples, as `objective_in_micro_batches` has the objective.

    Args:
        meta_loss: as in `make_meta_step`, a mean over the meta batch.
        micro_batches: parts, all of one size.
    """
    in_parts = _in_parts(meta_loss, micro_batches)
    return lambda *arguments: jnp.mean(in_parts(*arguments), axis=0)


def _in_parts(function: Callable, micro_batches: int) -> Callable:
    """The function's outputs on each part, leaves [...] stacked to [micro_batches, ...]."""
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
    """Running statistics are averaged; counters and random keys are alike in all parts."""
    return jnp.mean(stacked, axis=0) if jnp.issubdtype(stacked.dtype, jnp.floating) else stacked[0]
