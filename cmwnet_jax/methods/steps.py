"""Steps of the launcher's form, (state, batch) -> (state, metrics), made from those of core."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cmwnet_jax.core.types import MetaState, Metrics, PyTree, StepFn

BatchStep = Callable[[MetaState, Mapping[str, PyTree]], tuple[MetaState, Metrics]]
"""(state, batch by stream) -> (state, metrics); pure, not jitted."""


@dataclasses.dataclass(frozen=True)
class Switched:
    """One step or another, by the number of the step; itself a step.

    Attributes:
        chosen: the step's number, on the host or traced -> whether it is the first.
        if_true: the one. If it is `InPasses`, it cannot be part of a program, nor can the choice.
        if_false: the other.
    """

    chosen: Callable[[int | jax.Array], bool | jax.Array]
    if_true: "BatchStep | InPasses"
    if_false: BatchStep

    def __call__(self, state: MetaState, batch: PyTree) -> tuple[MetaState, Metrics]:
        """Both in one program."""
        return jax.lax.cond(self.chosen(state.step), self.if_true, self.if_false, state, batch)


@dataclasses.dataclass(frozen=True)
class InPasses:
    """A step that calls mapped programs of its own, as `make_low_memory_step`'s does.

    Attributes:
        step: (state, batch) -> (state, metrics), all with a leading axis over the devices.
    """

    step: BatchStep


Step = BatchStep | Switched | InPasses


def weighted(step: StepFn, stream: str = "train") -> BatchStep:
    """A step of core without a meta batch; what only meta steps report is NaN.

    Args:
        step: (state, batch) -> (state, metrics).
        stream: what it reads.
    """

    def run(state, batch):
        state, metrics = step(state, batch[stream])
        missing = jnp.full((), jnp.nan, metrics["loss"].dtype)
        return state, {**metrics, "meta_loss": missing, "meta_grad_norm": missing}

    return run


def meta(step: StepFn, stream: str = "train", meta_stream: str = "meta") -> BatchStep:
    """A meta step of core.

    Args:
        step: (state, batch, meta_batch) -> (state, metrics).
        stream: what it reads first.
        meta_stream: what it reads as the meta batch.
    """
    return lambda state, batch: step(state, batch[stream], batch[meta_stream])


def every(steps: int, if_true: Step, if_false: BatchStep) -> Step:
    """The first on every k-th step, counted from the run's first, the second on the others.

    Args:
        steps: k.
        if_true: for steps 0, k, 2k, ...
        if_false: for the others.
    """
    return if_true if steps == 1 else Switched(lambda number: number % steps == 0, if_true, if_false)
