"""The one loop over a run's epochs and steps, for runs that write a folder and for runs in memory."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data.load import Data
from cmwnet_jax.methods.base import Method
from cmwnet_jax.train import health
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.epoch import Epoch
from cmwnet_jax.train.trainer import Trainer


def run_chunks(
    config: ConfigDict,
    data: Data,
    method: Method,
    trainer: Trainer,
    state: MetaState,
    *,
    clock: Clock,
    first_epoch: int = 0,
    saved: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[tuple[MetaState, Epoch, float]]:
    """Trains in chunks of steps, checks the metrics of each, and yields after it.

    Args:
        config: the run's config.
        data: the run's data.
        method: the run's method.
        trainer: the run's trainer.
        state: the state before the next step, replicated; its buffers are donated.
        clock: is told of each epoch's start and of the computation.
        first_epoch: the epoch that `state` belongs to.
        saved: the arrays of that epoch's checkpoint; empty at the start of the run.

    Yields:
        The state, replicated, the epoch so far, and the mean loss of the chunk. The state is valid until the
        next chunk.

    Raises:
        TrainingDiverged: a step's metrics are NaN or infinite, or all its weights are 0.
    """
    for number in range(first_epoch, config.num_epochs):
        clock.start_epoch()
        with clock.compute():
            state, epoch = trainer.start_epoch(number, state, saved)
        while not epoch.is_over:
            first = epoch.steps_done
            with clock.compute():
                state, epoch = trainer.run_chunk(state, epoch)
            yield state, epoch, _checked_loss(data, method, epoch, first)
        saved = epoch.arrays()


def _checked_loss(data: Data, method: Method, epoch: Epoch, first: int) -> float:
    """Checks the metrics of the steps since `first`; returns their mean loss."""
    chunk = slice(first, epoch.steps_done)
    scalars = {name: values[chunk] for name, values in epoch.scalars.items()}
    health.check_steps(
        scalars,
        epoch.losses[chunk],
        epoch.weights[chunk],
        ids=data.biased.ids[epoch.main_rows[chunk]],
        is_meta=epoch.is_meta[chunk],
        first_step=epoch.number * epoch.num_steps + first,
        may_weigh_nothing=method.may_weigh_nothing,
    )
    return float(np.mean(scalars["loss"]))
