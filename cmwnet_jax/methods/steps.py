"""Adapts the steps of core to the launcher's signature, (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from cmwnet_jax.core.switched import Switched
from cmwnet_jax.core.types import MetaState, Metrics, PyTree, StepFn

BatchStep = Callable[[MetaState, Mapping[str, PyTree]], tuple[MetaState, Metrics]]
"""(state, batch by stream) -> (state, metrics); pure, not jitted."""


@dataclasses.dataclass(frozen=True)
class InPasses:
    """A step that calls several compiled programs itself, like that of `make_low_memory_step`.

    A `Switched` step may have one as `if_true`; its choice then cannot be compiled either.

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
