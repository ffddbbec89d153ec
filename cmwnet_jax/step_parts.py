"""What the meta step in one program and the one in several have in common."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.types import MetaState, Objective, PyTree, VirtualFilter

NORMALIZATIONS = ("sum", "mean", "none")


def virtual_part(tree: PyTree, params: PyTree, virtual_filter: VirtualFilter | None) -> PyTree:
    """The leaves that the virtual step moves, and None in place of the others.

    Args:
        tree: of the structure of `params`.
        params: the classifier's parameters.
        virtual_filter: as in `make_meta_step`.

    Raises:
        UsageError: the filter selects no parameter.
    """
    if virtual_filter is None:
        return tree
    moves = jax.tree.broadcast(virtual_filter(params), params)
    if not any(jax.tree.leaves(moves)):
        raise UsageError(
            "virtual_filter selects no parameter, expected True for at least one: without a virtual step "
            "the weight net has no gradient"
        )
    return jax.tree.map(lambda leaf, moved: leaf if moved else None, tree, moves)


def with_virtual_part(params: PyTree, part: PyTree) -> PyTree:
    """The parameters with the leaves of a `virtual_part` in the place of their own."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda x: x is None)


def sgd(params: PyTree, grads: PyTree, learning_rate: jax.Array | float) -> PyTree:
    """One plain SGD step that keeps each parameter's dtype."""
    return jax.tree.map(lambda p, g: (p - learning_rate * g).astype(p.dtype), params, grads)


def normalization(normalize: str, axis_name: str | None) -> Callable[[jax.Array], jax.Array]:
    """Weights [n] -> weights [n], divided as `normalize` says over all devices' examples."""
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
    """Keys for the training and the meta forward pass: a function of base key, step and device."""
    rng = jax.random.fold_in(state.rng, state.step)
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))
    batch_rng, meta_rng = jax.random.split(rng)
    return batch_rng, meta_rng


def axis_size(axis_name: str | None) -> int:
    """Devices on the axis; 1 without one."""
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sum over devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Mean over devices of the floating-point leaves; counters and random keys are alike on all."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def check_objective(out: Objective) -> None:
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


def checked_meta_loss(value: jax.Array) -> jax.Array:
    """The meta loss, or a ValueError where it is no scalar."""
    if jnp.shape(value) != ():
        raise ValueError(f"meta_loss gave shape {jnp.shape(value)}, expected a scalar: take its mean")
    return value


def checked_weights(weights: jax.Array, losses: jax.Array) -> jax.Array:
    """The weights, or a ValueError where they are not one an example."""
    if jnp.shape(weights) != jnp.shape(losses):
        raise ValueError(
            f"weight_fn gave weights of shape {jnp.shape(weights)}, expected one an example, "
            f"{jnp.shape(losses)}"
        )
    return weights
