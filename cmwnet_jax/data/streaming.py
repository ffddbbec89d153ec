"""Streaming input path: Grain's worker processes read, decode and crop batches."""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.random import generator
from cmwnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSplit:
    """A split that is read on demand.

    Attributes:
        source: random access: `source.__getitems__(ids)` gives dictionaries with a decoded `image`.
        ids: [N] int64, the source's row for each row of this split.
        labels: [N] int32, given labels.
        fit: brings images to one size.
        workers: number of worker processes; 0 reads in threads of this process.
        prefetch: batches that each worker reads ahead.
    """

    source: Sequence[Any]
    ids: np.ndarray
    labels: np.ndarray
    fit: Fit = dataclasses.field(default_factory=Fit)
    workers: int = 0
    prefetch: int = 4

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: np.ndarray, crops: tuple[int, ...] | None = None, views: int = 1) -> Raw:
        """Reads the examples at these rows now.

        Args:
            rows: [n] int32.
            crops: seed, purpose and counter of random crops, with a separate stream for each row and view; None
                crops the centre.
            views: number of views; if there are several and crops are random, `image` is a tuple of one array
                for each.

        Returns:
            `Raw` of numpy arrays.

        Raises:
            UsageError: the images differ in size after `fit`.
        """
        images = [example["image"] for example in self.source.__getitems__([int(i) for i in self.ids[rows]])]
        if crops is None:
            cropped = self._one_size([self.fit(image) for image in images])
        elif views == 1 or not self.fit.crop_pixels:
            cropped = self._crop(images, rows, crops)
        else:
            cropped = tuple(self._crop(images, rows, crops, view) for view in range(views))
        return Raw(cropped, self.labels[rows], np.asarray(rows, np.int32))

    def _crop(self, images: list, rows: np.ndarray, crops: tuple[int, ...], view: int = 0) -> np.ndarray:
        """Crops each image at random; the first view's streams are those of a stream with one view."""
        rngs = [generator(*crops, int(row), *[view] * (view > 0)) for row in rows]
        return self._one_size([self.fit(image, rng) for image, rng in zip(images, rngs, strict=True)])

    def _one_size(self, images: list) -> np.ndarray:
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise UsageError(
                f"data.crop_pixels is {self.fit.crop_pixels}, but images differ in size, e.g. "
                f"{' and '.join(map(str, sorted(sizes)[:2]))}: set it to the size that the network should see"
            )
        return np.stack(images)

    def take(self, rows: np.ndarray) -> Raw:
        """The examples at these rows, cropped at the centre, as from `Raw.take`.

        Args:
            rows: [n] int32.

        Raises:
            UsageError: as `read`.
        """
        return self.read(rows)

    def batches(
        self,
        order: Callable[[int], np.ndarray],
        start: int = 0,
        crops: tuple[int, ...] | None = None,
        views: int = 1,
    ) -> Iterator[Raw]:
        """Yields batches in order, without end; the workers live as long as the iterator.

        Args:
            order: step -> rows [n] int32, a `BatchOrder` or `PassOrder`; it must be picklable.
            start: the first step, where a resumed run continues.
            crops: seed and purpose of random crops; None crops the centre.
            views: as in `read`.

        Yields:
            `Raw` of numpy arrays for each step from `start`.
        """
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which a notebook never parses
        dataset = grain.MapDataset.source(_Batches(self, order, start, crops, views))
        threads = 1 if self.workers else os.cpu_count()
        batches = dataset.to_iter_dataset(grain.ReadOptions(threads, max(self.prefetch, threads)))
        if self.workers:
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=self.prefetch)
            batches = batches.mp_prefetch(options, worker_init_fn=_live_and_die_with_parent)
        return iter(batches)


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Random-access source of whole batches, so that each worker makes one batch at a time."""

    split: StreamedSplit
    order: Callable[[int], np.ndarray]
    start: int
    crops: tuple[int, ...] | None
    views: int

    def __len__(self) -> int:
        return 2**31  # more steps than any run takes

    def __getitem__(self, index: int) -> Raw:
        step = self.start + index
        crops = None if self.crops is None else (*self.crops, step)
        return self.split.read(self.order(step), crops, self.views)


def _live_and_die_with_parent(worker: int, num_workers: int) -> None:
    """Runs in each worker: ignores signals, and ends when its parent process ends.

    SIGTERM or Ctrl-C to the whole process group asks a run to stop at the end of a chunk; the workers must
    deliver batches until then. If the run is killed, the workers must not stay behind.
    """
    del worker, num_workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
