"""SIGTERM and SIGINT as a request to stop: at once, or at the end of the running chunk of steps.

A command calls `stop_at_once` before it imports what takes seconds; while steps run, `StopRequests` hears
signals instead.
"""

import os
import signal
import threading
import time
from pathlib import Path

from cmwnet_jax.errors import Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
    """From now on, SIGTERM and SIGINT end this process with status 75 and one line, whatever it is doing.

    Nothing is raised, which an `except` of somebody's on the way might swallow, and nothing is cleaned up: what
    is written is written so that a SIGKILL spoils nothing. A thread acts where the main one does not come to
    it, e.g. while XLA compiles. To be called in the main thread, by a command; again where a library has taken
    the signals.
    """
    for number in _SIGNALS:
        signal.signal(number, _exit)
    if not _told:
        heard, told = os.pipe()
        os.set_blocking(told, False)
        _told.append(told)
        threading.Thread(target=_exit_when_told, args=(heard,), daemon=True).start()
    signal.set_wakeup_fd(_told[0], warn_on_full_buffer=False)


_told: list[int] = []  # the pipe that the interpreter writes each signal's number to as soon as it comes
_given_back = [0.0]  # when `StopRequests` last gave the handlers back
_exiting = threading.Lock()
_heard = [""]  # the signal that the last run was asked to stop by


def _exit_when_told(heard: int) -> None:
    while True:
        for number in os.read(heard, 1):
            # The signal that `StopRequests` has just heard may be read only now: that one was not for us.
            is_ours = time.monotonic() - _given_back[0] > 0.5
            if number in _SIGNALS and is_ours and signal.getsignal(number) is _exit:
                _exit(number)


def _exit(number: int, frame=None) -> None:
    del frame
    text = f"stopped: {signal.Signals(number).name} came; the same command goes on from what is saved\n"
    # One line, though the main thread and the other may both come here.
    if _exiting.acquire(blocking=False):
        os.write(2, text.encode())
        os._exit(os.EX_TEMPFAIL)


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
            self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
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
        _given_back[0] = time.monotonic()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
