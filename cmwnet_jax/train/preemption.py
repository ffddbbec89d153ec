"""SIGTERM and SIGINT as a request to stop at the end of the running chunk of steps."""

import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cmwnet_jax.errors import Preempted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class StopRequests:
    """Hears the first SIGTERM or SIGINT while it is entered; a second one acts as it did before.

    Only the main thread can hear signals; in others this never hears of any. What it says then, it says from a
    thread of its own: the signal may have come in the middle of printing, which cannot be entered twice.

    Attributes:
        signal_name: of the signal that asked to stop, e.g. `SIGTERM`; empty until one has.
    """

    def __init__(self, say: Callable[[str], None] = _to_stderr):
        """Hears nothing yet.

        Args:
            say: shows a line to the user, beside whatever else is on the screen.
        """
        self.signal_name = ""
        self._before, self._say = {}, say
        self._notices = queue.SimpleQueue()  # `put` may be called wherever the signal has come
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    @property
    def requested(self) -> bool:
        """Whether somebody has asked to stop."""
        return bool(self.signal_name)

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._speaker.start()
            self._before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        self._restore()
        if self._speaker.is_alive():
            self._notices.put("")
            self._speaker.join()

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
        self.signal_name = signal.Signals(number).name
        self._restore()
        self._notices.put(
            f"{self.signal_name}: stopping once the running steps are saved; once more to stop without"
        )

    def _speak(self) -> None:
        for text in iter(self._notices.get, ""):
            self._say(text)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
