"""SIGTERM and SIGINT while no steps run: the process ends at once, with status 75 and one line.

A command calls `stop_at_once` before anything else, so that this module imports next to nothing. While steps
run, `preemption.StopRequests` hears signals instead.
"""

import os
import signal
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_at_once() -> None:
    """From now on, SIGTERM and SIGINT end this process with status 75 and one line, whatever it is doing.

    Nothing is raised, which an `except` of somebody's on the way might swallow, and nothing is cleaned up: what
    is written is written so that a SIGKILL spoils nothing. A thread acts where the main one does not come to
    it, e.g. while XLA compiles. To be called in the main thread, by a command; again where a library has taken
    the signals.
    """
    for number in SIGNALS:
        signal.signal(number, _exit)
    if not _told:
        heard, told = os.pipe()
        os.set_blocking(told, False)
        _told.append(told)
        threading.Thread(target=_exit_when_told, args=(heard,), daemon=True).start()
    signal.set_wakeup_fd(_told[0], warn_on_full_buffer=False)


_told: list[int] = []  # the pipe that the interpreter writes each signal's number to as soon as it comes
_given_back = [float("-inf")]  # when somebody who had heard signals gave the handlers back
_exiting = threading.Lock()


def _exit_when_told(heard: int) -> None:
    while True:
        for number in os.read(heard, 1):
            # A signal that somebody else has just heard may be read only now: that one was not for us.
            is_ours = time.monotonic() - _given_back[0] > 0.5
            if number in SIGNALS and is_ours and signal.getsignal(number) is _exit:
                _exit(number)


def _exit(number: int, frame=None) -> None:
    del frame
    text = f"stopped: {signal.Signals(number).name} came; the same command goes on from what is saved\n"
    # One line, though the main thread and the other may both come here.
    if _exiting.acquire(blocking=False):
        os.write(2, text.encode())
        os._exit(os.EX_TEMPFAIL)


def note_handlers_given_back() -> None:
    """To be called by whoever has heard signals and hears no more: what came just before was for them."""
    _given_back[0] = time.monotonic()
