"""Helpers that the two meta steps share: normalisation, optimiser updates, device sums and checks."""

import functools
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmwnet_jax.core.types import MetaState, Objective, ObjectiveFn, PyTree, VirtualFilter, WeightFn
from cmwnet_jax.core.weight_net import WeightNet
from cmwnet_jax.errors import UsageError, unknown_name

NORMALIZATIONS = ("sum", "mean", "none")


def virtual_part(tree: PyTree, params: PyTree, virtual_filter: VirtualFilter | None) -> PyTree:
    """Keeps the leaves that the virtual step changes and replaces the others by None.

    Args:
        tree: a tree with the structure of `params`.
        params: the classifier's parameters.
        virtual_filter: as in `make_meta_step`.

    Raises:
        UsageError: the filter selects no parameter, or gives anything but bools for all parameters.
    """
    if virtual_filter is None:
        return tree
    chosen = virtual_filter(params)
    try:
        moves = jax.tree.broadcast(chosen, params)
    except ValueError as error:
        raise UsageError(
            f"virtual_filter gave {jax.tree.structure(chosen)}, expected the structure of the parameters or "
            f"of its upper levels, {jax.tree.structure(params)}: give a bool for each part"
        ) from error
    other = {type(x).__name__ for x in jax.tree.leaves(moves) if not isinstance(x, bool | np.bool_)}
    if other:
        raise UsageError(
            f"virtual_filter gave {', '.join(sorted(other))}, expected Python's bools: they must be known when "
            f"the step is compiled"
        )
    if not any(jax.tree.leaves(moves)):
        raise UsageError(
            "virtual_filter selects no parameter, expected True for at least one: without a virtual step "
            "the weight net has no gradient"
        )
    return jax.tree.map(lambda leaf, moved: leaf if moved else None, tree, moves)


def with_virtual_part(params: PyTree, part: PyTree) -> PyTree:
    """The parameters with the leaves of a `virtual_part` put in."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda x: x is None)


def sgd(params: PyTree, grads: PyTree, learning_rate: jax.Array | float) -> PyTree:
    """One plain SGD step that keeps each parameter's dtype."""
    return jax.tree.map(lambda p, g: (p - learning_rate * g).astype(p.dtype), params, grads)


def schedule_of(virtual_lr: float | optax.Schedule) -> optax.Schedule:
    """The virtual step's learning rate as a schedule; a UsageError if it is not positive."""
    if callable(virtual_lr):
        return virtual_lr
    if not isinstance(virtual_lr, jax.core.Tracer) and not 0 < virtual_lr < math.inf:
        raise UsageError(
            f"virtual_lr is {virtual_lr!r}, expected a positive number or a schedule: take the classifier's "
            f"learning rate"
        )
    return lambda step: virtual_lr


def apply_optimizer(
    field: str, optimizer: optax.GradientTransformation, grads: PyTree, opt_state: PyTree, params: PyTree, value
) -> tuple[PyTree, PyTree]:
    """Updates parameters by an optimiser, which may also read the loss.

    Args:
        field: the optimiser's argument name, for messages.
        optimizer: an optax optimiser; some, e.g. polyak_sgd and reduce_on_plateau, take `value`.
        grads: the gradient of `value`, over all devices.
        opt_state: state of the optimiser.
        params: the parameters.
        value: scalar, the loss at `params` over all devices.

    Returns:
        (new parameters, new optimiser state).

    Raises:
        UsageError: the optimiser evaluates the loss at other parameters, as line searches do, or the state is
            missing or that of another optimiser.
    """
    fresh = jax.eval_shape(optimizer.init, params)
    is_missing = _is_empty(opt_state) and not _is_empty(fresh)  # an optimiser without state needs none
    has_values = bool(jax.tree.leaves((fresh, opt_state)))
    if is_missing or (has_values and jax.tree.structure(fresh) != jax.tree.structure(opt_state)):
        problem = "is ()" if is_missing else f"has another structure than the state of the step's {field}"
        raise UsageError(
            f"state.{field.replace('optimizer', 'opt_state')} {problem}, expected the state of the same "
            f"optimiser: pass MetaState.create(..., {field}=...), the same as in the step"
        )

    def cannot_be_served(*args, grad_fn=None):  # the only keyword that line searches pass
        raise UsageError(
            f"{field} evaluates the loss at other parameters (value_fn, grad_fn: a line search, opaque SAM), "
            f"which a step does not offer: take an optimizer without, e.g. optax.lbfgs(0.1, linesearch=None)"
        )

    extra = {"value": value, "grad": grads, "value_fn": cannot_be_served, "grad_fn": cannot_be_served}
    parameters = inspect.signature(optimizer.update).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        extra = {name: argument for name, argument in extra.items() if name in parameters}
    try:
        updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
    except TypeError:  # a part of a chain accepts no extra arguments, e.g. SAM
        updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _is_empty(opt_state: PyTree) -> bool:
    return isinstance(opt_state, tuple) and not opt_state


def normalization(normalize: str, axis_name: str | None) -> Callable[[jax.Array], jax.Array]:
    """Weights [n] -> weights [n], divided as `normalize` says, over the examples of all devices."""
    if normalize not in NORMALIZATIONS:
        raise unknown_name("normalize", normalize, NORMALIZATIONS)

    def normalized(weights):
        if normalize == "none":
            return weights
        if normalize == "mean":
            return weights / (weights.size * axis_size(axis_name))
        total = psum(jax.lax.stop_gradient(jnp.sum(weights)), axis_name)
        return weights / jnp.where(total == 0, 1, total)

    return normalized


def step_rngs(state: MetaState, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Keys for the training and the meta forward pass; they depend on base key, step and device."""
    rng = jax.random.fold_in(state.rng, state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    batch_rng, meta_rng = jax.random.split(rng)
    return batch_rng, meta_rng


def axis_size(axis_name: str | None) -> int:
    """Number of devices on the axis; 1 without an axis."""
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


def varying(tree: PyTree, axis_name: str | None) -> PyTree:
    """Marks the tree as device-varying, so that its gradient is this device's part.

    For parameters that are equal on all devices, `jax.shard_map` sums the gradient by itself, and for equal
    values it returns the whole cotangent to each device. The steps do both sums explicitly. Elsewhere (`pmap`,
    `shard_map` with `check_vma=False`, no axis) all values already vary by device.
    """
    if axis_name is None:
        return tree

    def cast(leaf, axis):
        # JAX 0.10 to 0.12 share no query for whether a leaf varies; the cast refuses leaves that do.
        try:
            return jax.lax.pcast(leaf, axis, to="varying")
        except ValueError:
            return leaf

    for axis in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        tree = jax.tree.map(lambda leaf, axis=axis: cast(leaf, axis), tree)
    return tree


def check_axes(params: PyTree, terms: jax.Array) -> None:
    """Raises a UsageError if `shard_map` splits the examples over an axis unknown to the step."""

    def axes_of(tree):
        kinds = [getattr(jax.typeof(leaf), "mat", None) for leaf in jax.tree.leaves(tree)]
        return frozenset().union(*(getattr(kind, "varying", ()) for kind in kinds))

    unknown = sorted(map(str, axes_of(terms) - axes_of(params)))
    if unknown:
        raise UsageError(
            f"shard_map splits the examples over {', '.join(unknown)}, expected the step's axis_name to say "
            f"so: make it with axis_name={unknown[0]!r}"
        )


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sum over devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean over devices of floating-point leaves; counters and random keys are equal on all devices."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def check_weight_net(state: MetaState, objective: ObjectiveFn, weight_fn: WeightFn, *, learns: bool) -> None:
    """Checks that the weight net fits the objective and that the state has what it needs.

    Args:
        state: the current state.
        objective, weight_fn: as in `make_meta_step`.
        learns: whether the step updates the weight net.

    Raises:
        UsageError: weight net and objective are known to differ in the number of meta-classes, or the state was
            made without the weight net's parameters.
    """
    classes = getattr(objective, "num_meta_classes", None)
    inner = weight_fn.func if isinstance(weight_fn, functools.partial) else weight_fn
    net = getattr(inner, "__self__", None)
    # A function of one's own may have no parameters.
    if (learns or isinstance(net, WeightNet)) and not jax.tree.leaves(state.weight_params):
        raise UsageError(
            f"state.weight_params is {state.weight_params!r}, expected the weight net's parameters: pass "
            f"MetaState.create(..., weight_params=...)"
        )
    if classes is not None and isinstance(net, WeightNet) and net.num_meta_classes != classes:
        raise UsageError(
            f"weight_fn is of a weight net with num_meta_classes = {net.num_meta_classes} and the objective "
            f"has {classes} meta-classes, expected as many of both: fit MetaClasses with num_meta_classes = "
            f"{net.num_meta_classes}, or take another weight net"
        )


def check_not_empty(**batches: PyTree) -> None:
    """A UsageError for a batch without examples, whose mean loss would be NaN.

    Args:
        **batches: by the argument's name.
    """
    for name, batch in batches.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if jnp.shape(leaf)[:1] == (0,):
                raise UsageError(
                    f"{name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, expected at least one "
                    f"example: leave out empty batches"
                )


def check_objective(out: Objective) -> None:
    """Checks for per-example float vectors of equal length and a scalar base; the error names the entry."""
    if not isinstance(out, Objective):
        raise UsageError(
            f"the objective returned a {type(out).__name__}, expected (Objective, model_state): return "
            f"cmw.Objective(terms, losses, meta_class, base), model_state"
        )
    n = jnp.shape(out.terms)[:1]
    for name in ("terms", "losses", "meta_class"):
        shape = jnp.shape(getattr(out, name))
        if len(shape) != 1 or shape != n:
            raise UsageError(
                f"Objective.{name} has shape {shape}, expected [n], one entry per example, as long as "
                f"terms, {jnp.shape(out.terms)}: do not reduce it over the batch"
            )
    if jnp.shape(out.base) != ():
        raise UsageError(f"Objective.base has shape {jnp.shape(out.base)}, expected a scalar: take its mean")
    for name in ("terms", "losses"):
        dtype = jnp.result_type(getattr(out, name))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise UsageError(f"Objective.{name} has dtype {dtype}, expected a float: it has no gradient")
    if not jnp.issubdtype(jnp.result_type(out.meta_class), jnp.integer):
        raise UsageError(
            f"Objective.meta_class has dtype {jnp.result_type(out.meta_class)}, expected an integer: "
            f"use MetaClasses.of_class[labels]"
        )


def checked_meta_loss(value: jax.Array, axis_name: str | None) -> jax.Array:
    """The meta loss, marked as device-varying; a UsageError if it is not a scalar."""
    if jnp.shape(value) != ():
        raise UsageError(f"meta_loss gave shape {jnp.shape(value)}, expected a scalar: take its mean")
    return varying(value, axis_name)


def checked_weights(weights: jax.Array, losses: jax.Array) -> jax.Array:
    """The weights; a UsageError unless there is one per example."""
    if jnp.shape(weights) != jnp.shape(losses):
        raise UsageError(
            f"weight_fn gave weights of shape {jnp.shape(weights)}, expected one per example, "
            f"{jnp.shape(losses)}: index or squeeze its output to [n]"
        )
    return weights
