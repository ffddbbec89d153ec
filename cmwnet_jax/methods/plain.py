"""Plain training, which most methods warm up with and some are made of."""

from cmwnet_jax.core import losses
from cmwnet_jax.core.low_memory import objective_in_micro_batches
from cmwnet_jax.core.meta_step import make_weighted_step
from cmwnet_jax.core.types import ObjectiveFn, StepFn
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Phase


def weighted_step(parts: Parts, objective: ObjectiveFn, **arguments) -> StepFn:
    """`make_weighted_step`'s step, in the run's micro-batches.

    Args:
        parts: the run's.
        objective: what is minimised.
        **arguments: others of `make_weighted_step`; without any, all weights are one.
    """
    if parts.config.micro_batches > 1:
        objective = objective_in_micro_batches(objective, parts.config.micro_batches)
    return make_weighted_step(
        objective=objective, optimizer=parts.optimizer, axis_name=parts.axis_name, **arguments
    )


def warmup(parts: Parts) -> Phase:
    """Plain cross-entropy from the first epoch on (Q9)."""
    return Phase(steps.weighted(weighted_step(parts, parts.objective())))


def plain_training(parts: Parts, loss: losses.LossFn) -> Method:
    """All weights one: the warm-up, then the loss.

    Args:
        parts: the run's.
        loss: (logits [n, C], labels) -> [n].
    """
    return after_warmup(parts, steps.weighted(weighted_step(parts, parts.objective(loss))))


def after_warmup(parts: Parts, step: steps.Step, **fields) -> Method:
    """The warm-up, then this step on the stream `train`.

    Args:
        parts: the run's.
        step: (state, batch) -> (state, metrics).
        **fields: others of `Method`.
    """
    main = Phase(step, first_epoch=parts.config.warmup_epochs)
    return parts.method((warmup(parts), main), **fields)
