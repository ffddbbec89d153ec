"""Decides when a run writes a checkpoint, checks the state first, and stops the run afterwards if asked."""

import time
from pathlib import Path

from ml_collections import ConfigDict

from cmwnet_jax.core.types import MetaState
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.build import Recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.epoch import Epoch
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.train.result import learned_ranges
from cmwnet_jax.train.watch import is_due
from cmwnet_jax.transfer import SavedWeightNet


class Saver:
    """Writes checkpoints when they are due. All processes of a run must call it at the same places."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: str | Path,
        recipe: Recipe,
        folder: RunFolder,
        checkpoints: Checkpoints,
        stop: StopRequests,
    ):
        """Starts counting the minutes to the next checkpoint.

        Args:
            config: the run's config.
            workdir: the run's folder, for messages.
            recipe: the run's recipe.
            folder: the folder with this process's metrics.
            checkpoints: the run's checkpoints.
            stop: tells whether a signal to stop was received.
        """
        self._config, self._workdir, self._method = config, workdir, recipe.method
        self._folder, self._checkpoints, self._stop = folder, checkpoints, stop
        self._every_seconds = 60 * config.checkpoint.every_minutes
        self._saved = time.monotonic()

    def after_chunk(self, epoch: Epoch, state: MetaState) -> None:
        """Inside an epoch: saves when the minutes are over, or saves and stops after a signal.

        Args:
            epoch: the epoch so far.
            state: the current state, replicated.

        Raises:
            Preempted: a signal to stop was received, and everything is saved.
            TrainingDiverged: the state contains NaN or infinities.
        """
        self._save_or_stop(epoch, state, due=False, may_stop=True)

    def after_epoch(self, epoch: Epoch, state: MetaState) -> None:
        """At an epoch's end: saves as in `after_chunk`, and also every few epochs and after the last one.

        Args:
            epoch: the finished epoch, whose metrics are already written.
            state: the state after it, replicated.

        Raises:
            Preempted: a signal to stop was received, and everything is saved; not after the last epoch.
            TrainingDiverged: the state contains NaN or infinities.
        """
        is_last = epoch.number + 1 == self._config.num_epochs
        due = is_last or is_due(epoch.number, self._config.checkpoint.every_epochs)
        self._save_or_stop(epoch, state, due=due, may_stop=not is_last)

    def _save_or_stop(self, epoch: Epoch, state: MetaState, *, due: bool, may_stop: bool) -> None:
        stopping = may_stop and parallel.any_process(self._stop.requested)
        # Clocks differ between processes, so only the first one's counts.
        if due or stopping or parallel.any_process(parallel.is_first() and self._minutes_are_over()):
            self._save(epoch, state)
        if stopping:
            raise self._stop.preempted(
                epoch.run_steps_done, epoch.num_steps, self._config.num_epochs, self._workdir
            )

    def _minutes_are_over(self) -> bool:
        return 0 < self._every_seconds <= time.monotonic() - self._saved

    def _save(self, epoch: Epoch, state: MetaState) -> None:
        state = parallel.unreplicate(state)
        health.check_state(state, epoch.run_steps_done)
        history, epochs_done = list(self._folder.history), epoch.number + epoch.is_over
        if not epoch.is_over:
            history.append({"epoch": epoch.number, **epoch.loss_range()})
        learned = self._weight_net(state, history, epochs_done)
        self._checkpoints.save(epoch.run_steps_done, state, learned, epoch.arrays())
        self._saved = time.monotonic()

    def _weight_net(self, state: MetaState, history: list[dict], epochs_done: int) -> SavedWeightNet | None:
        """The weight net for other runs; None before it weighs, and for a frozen one loaded from a file."""
        role = self._method.weight_net
        ranges = learned_ranges(self._method, history)
        if role is None or not ranges or not (role.learns or role.content is None):
            return None
        lows, highs = zip(*ranges, strict=True)
        return role.save(state, (min(lows), max(highs)), epochs_done)
