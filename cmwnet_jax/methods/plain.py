"""Plain training: the warm-up of most methods, and the base of some."""

from cmwnet_jax.core import losses
from cmwnet_jax.core.meta_step import make_weighted_step
from cmwnet_jax.core.micro_batches import objective_in_micro_batches
from cmwnet_jax.core.types import ObjectiveFn, StepFn
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Phase


def weighted_step(parts: Parts, objective: ObjectiveFn, **arguments) -> StepFn:
    """Makes the step of `make_weighted_step`, split into the run's micro-batches.

    Args:
        parts: the pieces of the run.
        objective: the objective to minimise.
        **arguments: further arguments of `make_weighted_step`; without any, all weights are one.
    """
    if parts.config.micro_batches > 1:
        objective = objective_in_micro_batches(objective, parts.config.micro_batches)
    return make_weighted_step(
        objective=objective, optimizer=parts.optimizer, axis_name=parts.axis_name, **arguments
    )


def warmup(parts: Parts) -> Phase:
    """Makes the warm-up phase: plain cross-entropy from the first epoch on (Q9)."""
    return Phase(steps.weighted(weighted_step(parts, parts.objective())))


def plain_training(parts: Parts, loss: losses.LossFn) -> Method:
    """Builds the warm-up, then plain training on a loss, with all weights one.

    Args:
        parts: the pieces of the run.
        loss: (logits [n, C], labels) -> [n].
    """
    return after_warmup(parts, steps.weighted(weighted_step(parts, parts.objective(loss))))


def after_warmup(parts: Parts, step: steps.Step, **fields) -> Method:
    """Builds the warm-up, then training with a given step on the stream `train`.

    Args:
        parts: the pieces of the run.
        step: (state, batch) -> (state, metrics).
        **fields: further fields of `Method`.
    """
    main = Phase(step, first_epoch=parts.config.warmup_epochs)
    return parts.method((warmup(parts), main), **fields)
