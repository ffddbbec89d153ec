"""Handles SIGTERM and SIGINT as a request to stop at the end of the running chunk of steps."""

import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cmwnet_jax.errors import Preempted
from cmwnet_jax.train.signals import SIGNALS, note_handlers_given_back

_heard = [""]  # name of the signal that the last run received; empty if none


def stop_if_asked() -> None:
    """Stops between two runs if the last one received a signal too late to stop itself.

    Raises:
        Preempted: the last run received SIGTERM or SIGINT.
    """
    if _heard[0]:
        raise Preempted(
            f"{_heard[0]} came, and the run that was going on is finished: the same command goes on"
        )


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class StopRequests:
    """Records the first SIGTERM or SIGINT; a second one has its previous effect at once. A context manager.

    Only the main thread can receive signals; in other threads this records none. It prints its notice from a
    separate thread, since a signal can interrupt printing, which is not reentrant.

    Attributes:
        signal_name: name of the signal received, e.g. `SIGTERM`; empty if none was.
    """

    def __init__(self, say: Callable[[str], None] = _to_stderr):
        """Stores the arguments; signals are handled from `__enter__` on.

        Args:
            say: shows a line to the user without disturbing the rest of the screen.
        """
        self.signal_name = ""
        self._before, self._say = {}, say
        self._notices = queue.SimpleQueue()  # `put` is reentrant, so a signal handler may call it
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    @property
    def requested(self) -> bool:
        """Whether a signal to stop was received."""
        return bool(self.signal_name)

    def __enter__(self) -> "StopRequests":
        _heard[0] = ""
        if threading.current_thread() is threading.main_thread():
            self._speaker.start()
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        self._restore()
        if self._speaker.is_alive():
            self._notices.put("")
            self._speaker.join()

    def preempted(self, steps_done: int, epoch_steps: int, num_epochs: int, workdir: str | Path) -> Preempted:
        """Makes the error that ends a run after a signal, once the run is saved.

        Args:
            steps_done: steps of the run in the checkpoint.
            epoch_steps: steps per epoch.
            num_epochs: epochs of the whole run.
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
        self._notices.put(
            f"{self.signal_name}: stopping once the running steps are saved; once more to stop without"
        )

    def _speak(self) -> None:
        for text in iter(self._notices.get, ""):
            self._say(text)

    def _restore(self) -> None:
        note_handlers_given_back()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
