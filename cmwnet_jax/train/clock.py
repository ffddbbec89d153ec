"""Where a run's time goes: getting ready, compiled computation, and everything around it."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Counts from its creation. The first epoch of a launch, which compiles, counts as getting ready."""

    def __init__(self):
        self._started = self._ready = time.perf_counter()
        self._epochs = 0
        self._compute = self._epoch_compute = 0.0
        self._epoch_started = self._started

    def start_epoch(self) -> None:
        """An epoch begins, and with it the checkpoint and pictures of the one before end."""
        self._epoch_started = time.perf_counter()
        self._epoch_compute = 0.0
        if self._epochs == 1:
            self._ready, self._compute = self._epoch_started, 0.0
        self._epochs += 1

    @contextlib.contextmanager
    def compute(self) -> Iterator[None]:
        """Around a chunk of training and around evaluation, which must end with values on the host."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._epoch_compute += seconds
        self._compute += seconds

    def epoch_seconds(self) -> dict[str, float]:
        """Seconds of the running epoch, as far as this launch ran it, and of its training and evaluation."""
        seconds = time.perf_counter() - self._epoch_started
        return {"seconds": seconds, "seconds_compute": self._epoch_compute}

    def summary(self) -> dict[str, float | None]:
        """Seconds of this launch; `overhead_percent` is what epochs take beyond computation.

        It is of the epochs after the first, and None where there is only one.
        """
        now = time.perf_counter()
        looped = now - self._ready
        overhead = 100 * (1 - self._compute / looped) if self._epochs > 1 else None
        return {
            "seconds": now - self._started,
            "seconds_ready": self._ready - self._started,
            "overhead_percent": overhead,
        }
