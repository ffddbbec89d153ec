"""Adapts the steps of core to the launcher's signature, (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cmwnet_jax.core.types import MetaState, Metrics, PyTree, StepFn

BatchStep = Callable[[MetaState, Mapping[str, PyTree]], tuple[MetaState, Metrics]]
"""(state, batch by stream) -> (state, metrics); pure, not jitted."""


@dataclasses.dataclass(frozen=True)
class Switched:
    """A step that selects one of two steps by the step number.

    Attributes:
        chosen: step number, on the host or traced -> whether to take `if_true`.
        if_true: the first step. If it is `InPasses`, the choice cannot be compiled either.
        if_false: the second step.
    """

    chosen: Callable[[int | jax.Array], bool | jax.Array]
    if_true: "BatchStep | InPasses"
    if_false: BatchStep

    def __call__(self, state: MetaState, batch: PyTree) -> tuple[MetaState, Metrics]:
        """Compiles both steps into one program, with `jax.lax.cond`."""
        return jax.lax.cond(self.chosen(state.step), self.if_true, self.if_false, state, batch)


@dataclasses.dataclass(frozen=True)
class InPasses:
    """A step that calls several compiled programs itself, like that of `make_low_memory_step`.

    Attributes:
        step: (state, batch) -> (state, metrics), all with a leading device axis.
    """

    step: BatchStep


Step = BatchStep | Switched | InPasses


PER_EXAMPLE = ("losses", "weights", "labels")
"""Metrics [n] of the main stream's examples; `labels` int32 only if the step chooses them (pseudo-labels)."""


def weighted(step: StepFn, stream: str | None = "train") -> BatchStep:
    """Adapts a step of core that takes no meta batch; `meta_loss` and `meta_grad_norm` are NaN.

    Args:
        step: (state, batch) -> (state, metrics).
        stream: the stream that it reads; None if it reads all of them, by name.
    """

    def run(state, batch):
        state, metrics = step(state, batch if stream is None else batch[stream])
        missing = jnp.full((), jnp.nan, metrics["loss"].dtype)
        return state, {**metrics, "meta_loss": missing, "meta_grad_norm": missing}

    return run


def meta(step: StepFn, stream: str | None = "train", meta_stream: str = "meta") -> BatchStep:
    """Adapts a meta step of core.

    Args:
        step: (state, batch, meta_batch) -> (state, metrics).
        stream: the stream of the batch; None if the step reads all streams, by name.
        meta_stream: the stream of the meta batch.
    """
    return lambda state, batch: step(state, batch if stream is None else batch[stream], batch[meta_stream])


def every(steps: int, if_true: Step, if_false: BatchStep) -> Step:
    """Takes one step at every k-th step of the run, and another step in between.

    Args:
        steps: k.
        if_true: the step taken at steps 0, k, 2k, ...
        if_false: the step taken at all others.
    """
    return if_true if steps == 1 else Switched(lambda number: number % steps == 0, if_true, if_false)
