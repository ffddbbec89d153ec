"""SIGTERM and SIGINT as a request to stop at the end of the running chunk of steps."""

import os
import signal
import threading
from pathlib import Path

from cmwnet_jax.errors import Preempted
from cmwnet_jax.train.signals import SIGNALS, note_handlers_given_back

_heard = [""]  # the signal that the last run was asked to stop by


def stop_if_asked() -> None:
    """To be called between runs: the last one may have been asked to stop when it had nothing left to do.

    Raises:
        Preempted: it was.
    """
    if _heard[0]:
        raise Preempted(
            f"{_heard[0]} came, and the run that was going on is finished: the same command goes on"
        )


class StopRequests:
    """Hears the first SIGTERM or SIGINT while it is entered; a second one acts as it did before, at once.

    Only the main thread can hear signals; in others this never hears of any.

    Attributes:
        signal_name: of the signal that asked to stop, e.g. `SIGTERM`; empty until one has.
    """

    def __init__(self):
        self.signal_name = ""
        self._before = {}

    @property
    def requested(self) -> bool:
        """Whether somebody has asked to stop."""
        return bool(self.signal_name)

    def __enter__(self) -> "StopRequests":
        _heard[0] = ""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        self._restore()

    def preempted(self, steps_done: int, epoch_steps: int, num_epochs: int, workdir: str | Path) -> Preempted:
        """The error that ends a run which was asked to stop and has been saved.

        Args:
            steps_done: the run's, that are in the checkpoint.
            epoch_steps: steps of each epoch.
            num_epochs: of the whole run.
            workdir: the run's folder.
        """
        came = self.signal_name or "a signal to another process"
        epochs, steps = divmod(steps_done, epoch_steps)
        inside = f" and {steps} of {epoch_steps} steps of the next" if steps else ""
        return Preempted(
            f"{came} came; {epochs} of {num_epochs} epochs{inside} are done and saved in {workdir}: "
            f"the same command goes on from there"
        )

    def _hear(self, number: int, frame) -> None:
        del frame
        self.signal_name = _heard[0] = signal.Signals(number).name
        self._restore()
        # Not `print`: the signal may have come in the middle of one, whose buffer cannot be entered twice.
        text = f"{self.signal_name}: stopping once the running steps are saved; once more to stop without\n"
        os.write(2, text.encode())

    def _restore(self) -> None:
        note_handlers_given_back()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
