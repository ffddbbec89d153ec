"""Measures a run's time: preparation, compiled computation, and overhead."""

import contextlib
import time
from collections.abc import Iterator

import jax

_compiling = [0.0]  # seconds of this process


def _add(event: str, seconds: float, **about: str | int) -> None:
    if event.startswith("/jax/core/compile/"):  # tracing, lowering, and XLA's work or reading from its cache
        _compiling[0] += seconds


jax.monitoring.register_event_duration_secs_listener(_add)


class Clock:
    """Measures from its creation. The first epoch of a launch, which compiles, counts as preparation."""

    def __init__(self):
        self._started = self._ready = time.perf_counter()
        self._epochs = 0
        self._compute = self._epoch_compute = 0.0
        self._compiled_before = self._epoch_compiled_before = _compiling[0]
        self._epoch_started = self._started

    def start_epoch(self) -> None:
        """Marks the start of an epoch; the checkpoint and plots of the previous epoch are done."""
        self._epoch_started = time.perf_counter()
        self._epoch_compute = 0.0
        self._epoch_compiled_before = _compiling[0]
        if self._epochs == 1:
            self._ready, self._compute = self._epoch_started, 0.0
        self._epochs += 1

    @contextlib.contextmanager
    def compute(self) -> Iterator[None]:
        """Times a chunk of training or an evaluation, which must end with values on the host."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._epoch_compute += seconds
        self._compute += seconds

    @property
    def seconds_compile(self) -> float:
        """Seconds of tracing and compiling since the creation, including programs read from JAX's cache."""
        return _compiling[0] - self._compiled_before

    def epoch_seconds(self) -> dict[str, float]:
        """Seconds of the running epoch in this launch: in total, in training and evaluation, in compiling."""
        return {
            "seconds": time.perf_counter() - self._epoch_started,
            "seconds_compute": self._epoch_compute,
            "seconds_compile": _compiling[0] - self._epoch_compiled_before,
        }

    def summary(self) -> dict[str, float | None]:
        """Times of this launch in seconds, and its overhead.

        `overhead_percent` is the share of the epochs' time outside computation. It leaves out the first epoch,
        and is None if there is no other.
        """
        now = time.perf_counter()
        looped = now - self._ready
        overhead = 100 * (1 - self._compute / looped) if self._epochs > 1 else None
        return {
            "seconds": now - self._started,
            "seconds_ready": self._ready - self._started,
            "seconds_compile": self.seconds_compile,
            "overhead_percent": overhead,
        }
