"""Weights without a weight net, for `make_meta_step`: L2RW and MCW (baselines of Sec. 4.1).

Both give each example of a batch a free number, which is zero before every step and is changed by one
meta-gradient. The weight parameters are these numbers, [n] float over the batch of *all* devices, with the
same values on each device.

    L2RW: weight_fn = free_weight_fn(axis_name)
          weight_optimizer = reweighting_optimizer()
    MCW:  weight_fn = class_and_free_weight_fn(class_balanced_weights(class_counts), axis_name)
          weight_optimizer = optax.sgd(weight_lr)

    step = afresh(make_meta_step(weight_fn=..., weight_optimizer=..., ...))

The numbers of one step mean nothing for another batch, so every batch needs a meta step.
"""

import jax
import jax.numpy as jnp
import optax
from numpy.typing import ArrayLike

from cmwnet_jax.core.class_balance import for_labels
from cmwnet_jax.core.types import PyTree, StepFn, WeightFn
from cmwnet_jax.errors import UsageError


def free_weight_fn(axis_name: str | None = None) -> WeightFn:
    """Makes a weight function that returns its parameters: L2RW's epsilon (Ren et al. 2018).

    It does not clip at 0: each step starts there, and a clip would have no gradient.
    `reweighting_optimizer` clips instead.

    Args:
        axis_name: as the step's; each device takes its own part of the parameters.

    Returns:
        (weight_params [n over all devices], losses [n], meta_class [n]) -> weights [n].

    Raises:
        UsageError: on the first call, if there is not one parameter per example.
    """

    def weight_fn(weight_params, losses, meta_class):
        del meta_class
        n, devices = len(losses), 1 if axis_name is None else jax.lax.psum(1, axis_name)
        if jnp.shape(weight_params) != (devices * n,):
            raise UsageError(
                f"weight_params have shape {jnp.shape(weight_params)}, expected one free weight per example, "
                f"({devices * n},) for {devices} device(s) with {n} each: start from jnp.zeros({devices * n})"
            )
        if axis_name is None:
            return weight_params
        return jax.lax.dynamic_slice_in_dim(weight_params, jax.lax.axis_index(axis_name) * n, n)

    return weight_fn


def class_and_free_weight_fn(class_weights: ArrayLike, axis_name: str | None = None) -> WeightFn:
    """Makes MCW's weight function `max(w_y + eps, 0)`: class weight plus a free number (Jamal et al. 2020).

    Args:
        class_weights: [C] float, from `class_balanced_weights`.
        axis_name: as in `free_weight_fn`.

    Returns:
        (weight_params [n over all devices], losses [n], meta_class [n]) -> weights [n]. Here the
        meta-class is the class itself, K = C. Build the objective with
        `MetaClasses(centers=class_counts, of_class=np.arange(C, dtype=np.int32))`, because
        `MetaClasses.fit` sorts by size. Outside of [0, C) the weight is NaN.

    Raises:
        UsageError: as in `free_weight_fn`.
    """
    free = free_weight_fn(axis_name)

    def weight_fn(weight_params, losses, meta_class):
        eps = free(weight_params, losses, meta_class)
        return jnp.maximum(for_labels(jnp.asarray(class_weights, eps.dtype), meta_class) + eps, 0)

    return weight_fn


def reweighting_optimizer() -> optax.GradientTransformation:
    """Optimiser with new parameters max(-gradient, 0): L2RW's weights (Ren et al. 2018).

    The step's `normalize="sum"` then divides them by their sum. The old parameters should be 0; otherwise they
    leave a rounding error.

    Returns:
        An optax optimiser without learning rate and state.
    """

    def update(gradients: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda g, p: jnp.maximum(-g, 0) - p, gradients, params)

    return optax.stateless(update)


def afresh(step: StepFn) -> StepFn:
    """Wraps a meta step: resets all weight parameters to 0 before each step.

    Args:
        step: (state, batch, ...) -> (new state, metrics), from `make_meta_step`.

    Returns:
        A step of the same signature; its new state holds the weight parameters used for this batch.

    Raises:
        UsageError: the step applies weights that it has not learned from the batch itself.
    """
    if hasattr(step, "if_true") or getattr(step, "delayed_weights", False):  # a Switched, compiled or not
        raise UsageError(
            "afresh got a step with meta_every above 1 or delayed_weights=True, expected meta_every=1 and "
            "delayed_weights=False: weights that start at 0 would be applied before they are learned"
        )

    def from_zero(state, *batches):
        return step(state.replace(weight_params=jax.tree.map(jnp.zeros_like, state.weight_params)), *batches)

    return from_zero
