"""Low-memory meta step: the gradients of `make_meta_step` at about the peak memory of plain training.

`make_meta_step` keeps the activations of its forward pass until the end, beside those of the meta pass. Here
no two passes hold activations at the same time. The meta-gradient is computed in forward mode. By Eq. 10, the
derivative of the meta loss by the normalised weight of example i is `-alpha * <gradient of terms_i, v>`, where
v is the gradient of the meta loss at the virtual parameters. One `jax.jvp` of the terms along v gives all
these products and stores no activations. In units of one forward pass, the costs are: virtual gradient 3, v 3,
products 3, real gradient 3. The total is 12, against 10 for `make_meta_step` and 3 for plain training. With
`delayed_weights`, the virtual gradient is also the real one, and the total is 9. With `shared_forward`, one
forward pass serves products and real gradient (forward 1, products 2, backward 2), and the total is 11.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmwnet_jax.core.linear import Linear, Weighted, linearize, update_classifier, weigh
from cmwnet_jax.core.micro_batches import meta_loss_in_micro_batches, objective_in_micro_batches
from cmwnet_jax.core.step_parts import (
    apply_optimizer,
    check_not_empty,
    check_objective,
    check_weight_net,
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
    delayed_weights: bool = False,
    shared_forward: bool = False,
    micro_batches: int = 1,
    compile: Callable[..., Callable] = jax.jit,
    donate: bool = False,
) -> StepFn:
    """As `make_meta_step`, in four separately compiled programs, so that none keeps another's activations.

    Args:
        objective, meta_loss, weight_fn, optimizer, weight_optimizer: as in `make_meta_step`.
        virtual_lr, normalize, axis_name, virtual_filter: as in `make_meta_step`.
        delayed_weights: as in `make_meta_step`. It saves the last of the four programs; in return, the new
            parameters and optimiser state are kept beside the old ones until the end of the step.
        shared_forward: whether the last two programs are one, whose forward pass serves both. This saves one of
            12 forward passes; in return, its activations are kept while the products are computed. Not with
            `delayed_weights`, whose last program is saved anyway.
        micro_batches: number of parts into which both batches are cut, processed in sequence; see
            `objective_in_micro_batches`.
        compile: applied to each of the functions; with `axis_name`, use
            `functools.partial(jax.pmap, axis_name=axis_name)`.
        donate: whether the last program may overwrite the old state, which cannot be used afterwards; that
            program is compiled with `donate_argnums=(0,)`. With `delayed_weights`, nothing is overwritten.

    Returns:
        (state, batch, meta_batch) -> (new state, metrics), with the results of `make_meta_step`. Do not jit
        it: XLA would merge the passes and keep the activations.

    Raises:
        UsageError: as `make_meta_step`; `micro_batches` is below 1 or does not divide a batch; both
            `shared_forward` and `delayed_weights` are asked for; or, on the first call, the objective has a
            derivative by `jax.custom_vjp`, which takes `shared_forward`.

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
    if shared_forward and delayed_weights:
        raise UsageError(
            "shared_forward is True, but with delayed_weights there is no second forward pass that could be "
            "shared: set one of the two to False"
        )
    if micro_batches != 1:
        objective = objective_in_micro_batches(objective, micro_batches)
        meta_loss = meta_loss_in_micro_batches(meta_loss, micro_batches)
    parts = _Parts(
        objective,
        weight_fn,
        weight_optimizer,
        normalization(normalize, axis_name),
        schedule_of(virtual_lr),
        virtual_filter,
        axis_name,
    )
    virtual_step = compile(_first_pass(parts, optimizer if delayed_weights else None))
    meta_gradient = compile(_meta_pass(meta_loss, axis_name))
    over_the_old = {"donate_argnums": (0,)} if donate else {}
    if shared_forward:
        update_both = compile(_shared_pass(parts, optimizer), **over_the_old)
    else:
        update_weight_net = compile(_weight_pass(parts))
        update = None if delayed_weights else compile(_last_pass(parts, optimizer), **over_the_old)

    def step(state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        check_not_empty(batch=batch, meta_batch=meta_batch)
        check_weight_net(state, objective, weight_fn, learns=True)
        virtual, *updated = virtual_step(state, batch)
        meta_loss_value, direction = meta_gradient(state, virtual, meta_batch)
        del virtual  # these are as large as the parameters, and not needed any more
        if shared_forward:
            new_state, metrics, meta_grad_norm = update_both(state, batch, direction, meta_loss_value)
        else:
            with _naming_custom_vjp():
                changes, meta_grad_norm = update_weight_net(state, batch, direction, meta_loss_value)
            del direction
            if delayed_weights:
                new_state, metrics = updated
                new_state = new_state.replace(**changes)
            else:
                new_state, metrics = update(state.replace(**changes), batch)
        return new_state, {**metrics, "meta_loss": meta_loss_value, "meta_grad_norm": meta_grad_norm}

    step.delayed_weights = delayed_weights
    return step


class _Parts(NamedTuple):
    """What the passes share."""

    objective: ObjectiveFn
    weight_fn: WeightFn
    weight_optimizer: optax.GradientTransformation
    normalized: Callable[[jax.Array], jax.Array]
    learning_rate: optax.Schedule
    virtual_filter: VirtualFilter | None
    axis_name: str | None

    def linear(self, state: MetaState, batch: PyTree) -> Linear:
        """A forward pass."""
        rng, _ = step_rngs(state, self.axis_name)
        return linearize(self.objective, state, batch, rng, self.axis_name)

    def weighted(self, state: MetaState, linear: Linear) -> Weighted:
        """A backward pass with the state's weight net."""
        weights = self.weight_fn(state.weight_params, linear.losses, linear.meta_class)
        return weigh(linear, weights, self.normalized, self.axis_name)

    def learned(
        self, state: MetaState, products: jax.Array, losses: jax.Array, meta_class: jax.Array, meta_loss_value
    ) -> tuple[dict[str, PyTree], jax.Array]:
        """The weight-net fields after Eq. 8, from each term's product with v, and the meta-gradient's norm."""

        def meta_loss_to_first_order(weight_params):
            weights = checked_weights(self.weight_fn(weight_params, losses, meta_class), losses)
            return -self.learning_rate(state.step) * jnp.sum(self.normalized(weights) * products)

        # Sum over all devices, because examples are summed; v is already the mean over devices.
        own_weight_params = varying(state.weight_params, self.axis_name)
        meta_grads = psum(jax.grad(meta_loss_to_first_order)(own_weight_params), self.axis_name)
        weight_params, weight_opt_state = apply_optimizer(
            "weight_optimizer",
            self.weight_optimizer,
            meta_grads,
            state.weight_opt_state,
            state.weight_params,
            meta_loss_value,
        )
        changes = {"weight_params": weight_params, "weight_opt_state": weight_opt_state}
        return changes, optax.tree.norm(meta_grads)


@contextlib.contextmanager
def _naming_custom_vjp():
    """Says what to do about a derivative that cannot be taken; JAX finds it when it compiles the program."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise UsageError(
            "the model or loss has a derivative by jax.custom_vjp, which has no forward mode, expected "
            "functions that jax.jvp can take: set shared_forward=True, or take make_meta_step"
        ) from error


def _first_pass(parts: _Parts, optimizer: optax.GradientTransformation | None):
    """(state, batch) -> (the selected parameters after the virtual step of weighted SGD (Eq. 7), ...).

    With an optimiser, which makes the real update from the same gradient, the new state and metrics follow.
    """

    def first_pass(state, batch):
        linear = parts.linear(state, batch)
        weighted = parts.weighted(state, linear)
        params, grads = (
            virtual_part(tree, state.params, parts.virtual_filter) for tree in (state.params, weighted.grads)
        )
        virtual = sgd(params, grads, parts.learning_rate(state.step))
        if optimizer is None:
            return (virtual,)
        return virtual, *update_classifier(state, linear, weighted, optimizer, parts.axis_name)

    return first_pass


def _last_pass(parts: _Parts, optimizer: optax.GradientTransformation):
    """(state, batch) -> the new state and metrics (Eq. 9)."""

    def last_pass(state, batch):
        linear = parts.linear(state, batch)
        return update_classifier(state, linear, parts.weighted(state, linear), optimizer, parts.axis_name)

    return last_pass


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


def _weight_pass(parts: _Parts):
    """(state, batch, v, meta loss) -> weight-net fields after Eq. 8, and the meta-gradient's norm."""

    def weight_pass(state, batch, direction, meta_loss_value):
        batch_rng, _ = step_rngs(state, parts.axis_name)

        def terms_at(part):
            params = with_virtual_part(state.params, part)
            out, _ = parts.objective(params, state.model_state, batch, batch_rng)
            check_objective(out)
            return out.terms, (out.losses, out.meta_class)

        part = virtual_part(state.params, state.params, parts.virtual_filter)
        _, products, beside = jax.jvp(terms_at, (part,), (direction,), has_aux=True)
        return parts.learned(state, products, *beside, meta_loss_value)

    return weight_pass


def _shared_pass(parts: _Parts, optimizer: optax.GradientTransformation):
    """(state, batch, v, meta loss) -> the new state and metrics, and the meta-gradient's norm.

    The pullback to the parameters is linear, and its transpose at v is the derivative of the terms along v.
    """

    def shared_pass(state, batch, direction, meta_loss_value):
        linear = parts.linear(state, batch)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        direction = varying(with_virtual_part(zeros, direction), parts.axis_name)
        along = jax.linear_transpose(lambda *pair: linear.pullback(pair), linear.base, linear.terms)
        _, products = along((direction,))
        beside = linear.losses, linear.meta_class
        changes, meta_grad_norm = parts.learned(state, products, *beside, meta_loss_value)
        state = state.replace(**changes)
        new_state, metrics = update_classifier(
            state, linear, parts.weighted(state, linear), optimizer, parts.axis_name
        )
        return new_state, metrics, meta_grad_norm

    return shared_pass
