"""Objectives and meta losses that are computed on one part of the batch after the other."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.core.step_parts import check_objective
from cmwnet_jax.core.types import MetaLossFn, Objective, ObjectiveFn, with_attributes_of
from cmwnet_jax.errors import UsageError


def objective_in_micro_batches(objective: ObjectiveFn, micro_batches: int) -> ObjectiveFn:
    """Wraps an objective: computes it on one part of the batch after the other, in a loop.

    Gradients are accumulated. Each part's activations are recomputed instead of stored (`jax.checkpoint`), so
    the peak memory is that of one part; in return, each gradient needs one more forward pass. The result is
    exact if examples are independent. BatchNorm uses the statistics of each part, and its running statistics
    are updated once, to the mean of the parts' updates. On a CPU, convolutions in loops are slow.

    Args:
        objective: as in `make_meta_step`; its `base` must be a mean over the batch. If it has several terms
            per example, an attribute `terms_per_example` says how many, e.g. 2 under mixup: first the terms of
            all own labels, then those of all partners. The result has this order, too.
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
    terms_per_example = getattr(objective, "terms_per_example", 1)

    def joined(stacked, views=1):
        """[parts, views * n, ...] to [views * parts * n, ...]: all examples' first terms, then their second."""
        by_view = stacked.reshape(len(stacked), views, -1, *stacked.shape[2:])
        return jnp.swapaxes(by_view, 0, 1).reshape(-1, *stacked.shape[2:])

    @with_attributes_of(objective)
    def whole(params, model_state, batch, rng):
        out, model_states = in_parts(params, model_state, batch, rng)
        by_term = (joined(x, terms_per_example) for x in (out.terms, out.losses, out.meta_class))
        whole_out = Objective(*by_term, jnp.mean(out.base), jax.tree.map(joined, out.aux))
        return whole_out, jax.tree.map(_mean_over_parts, model_states)

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
    if not isinstance(micro_batches, int | np.integer) or micro_batches < 1:
        raise UsageError(
            f"micro_batches is {micro_batches!r}, expected a whole number of at least 1: 1 does not cut the "
            f"batch"
        )

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
