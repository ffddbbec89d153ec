"""Handles SIGTERM and SIGINT while no steps run: the process ends at once with status 75 and one line.

Commands call `stop_at_once` before anything else, so this module has few imports. While steps run,
`preemption.StopRequests` handles the signals instead.
"""

import os
import signal
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
    """Makes SIGTERM and SIGINT end this process with status 75 and one line, whatever it is doing.

    No exception is raised, since an `except` elsewhere might swallow it. Nothing is cleaned up: files are
    written such that even a SIGKILL does no damage. A separate thread handles the signal when the main thread
    cannot, e.g. while XLA compiles. Call this in the main thread of a command, and again after a library has
    replaced the signal handlers.
    """
    for number in SIGNALS:
        signal.signal(number, _exit)
    if not _told:
        heard, told = os.pipe()
        os.set_blocking(told, False)
        _told.append(told)
        threading.Thread(target=_exit_when_told, args=(heard,), daemon=True).start()
    signal.set_wakeup_fd(_told[0], warn_on_full_buffer=False)


_told: list[int] = []  # pipe to which the interpreter writes the number of each signal at once
_given_back = [float("-inf")]  # time when another handler of signals was last removed
_exiting = threading.Lock()


def _exit_when_told(heard: int) -> None:
    while True:
        for number in os.read(heard, 1):
            # A signal that another handler has just received may be read only now; ignore it.
            is_ours = time.monotonic() - _given_back[0] > 0.5
            if number in SIGNALS and is_ours and signal.getsignal(number) is _exit:
                _exit(number)


def _exit(number: int, frame=None) -> None:
    del frame
    text = f"stopped: {signal.Signals(number).name} came; the same command goes on from what is saved\n"
    # The main thread and the other one may both get here, but only one prints.
    if _exiting.acquire(blocking=False):
        os.write(2, text.encode())
        os._exit(os.EX_TEMPFAIL)


def note_handlers_given_back() -> None:
    """Called after another handler is removed: signals that came just before were meant for that handler."""
    _given_back[0] = time.monotonic()
