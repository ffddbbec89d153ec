"""The order of the examples, and batches on the device.

Order is a function of seed and epoch alone, so that a resumed run, and either input path, sees the
same batches.
"""

import dataclasses
import functools
import zlib
from typing import NamedTuple

import jax
import numpy as np
from flax import struct

from cmwnet_jax.data.random import Purpose, generator


@struct.dataclass
class Raw:
    """Examples before any change to their pixels: a whole split on the device, or one batch.

    Attributes:
        image: [n, height, width, channels] uint8.
        label: [n] int32, given labels; a meta set's may be [n, C] float32.
        row: [n] int32, where the examples are in their split; what their augmentation is drawn by.
    """

    image: jax.Array
    label: jax.Array
    row: jax.Array

    @classmethod
    def whole(cls, images: np.ndarray, labels: np.ndarray) -> "Raw":
        """A whole split, on the host.

        Args:
            images: [N, height, width, channels] uint8.
            labels: [N] int.
        """
        return cls(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: jax.Array) -> "Raw":
        """The examples at these rows of a whole split; runs inside the compiled step.

        Args:
            rows: [m] int32.
        """
        # Gathered as flat pixels: over four axes XLA's gather is seven times slower on a CPU.
        pixels = self.image.reshape(len(self), -1)[rows]
        return Raw(pixels.reshape(len(rows), *self.image.shape[1:]), self.label[rows], self.row[rows])


class Selection(NamedTuple):
    """Some examples of a split, and the labels that they are shown under, e.g. an epoch's meta set.

    Attributes:
        rows: [M] int64, rows of the split.
        labels: [M] int class indices or [M, C] float distributions.
    """

    rows: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The rows of each batch of a stream: permutations of its examples, one after another, anew each epoch.

    A stream of no more examples than a batch has is one batch, again and again (Q21).

    Attributes:
        seed: of the run.
        num_examples: M.
        batch_size: n, at most.
        steps: batches per epoch; 0 for one pass, without the last partial batch.
        stream: its name; streams of one run are in different orders.
    """

    seed: int
    num_examples: int
    batch_size: int
    steps: int = 0
    stream: str = "train"

    @property
    def epoch_steps(self) -> int:
        """Batches per epoch."""
        return self.steps or self.num_examples // self.batch_size

    @functools.lru_cache(maxsize=4)  # noqa: B019  (a few epochs' rows, whatever the orders that ask)
    def epoch(self, epoch: int) -> np.ndarray:
        """[steps, min(n, M)] int32, the rows of an epoch."""
        size = min(self.batch_size, self.num_examples)
        rng = generator(self.seed, *order_purpose(self.stream), epoch)
        passes = -(-self.epoch_steps * size // self.num_examples)
        order = np.concatenate([rng.permutation(self.num_examples) for _ in range(passes)])
        return order[: self.epoch_steps * size].reshape(self.epoch_steps, size).astype(np.int32)

    def __call__(self, step: int) -> np.ndarray:
        """The rows of a step, counted from the run's first."""
        epoch, index = divmod(step, self.epoch_steps)
        return self.epoch(epoch)[index]


def order_purpose(stream: str) -> tuple[int, ...]:
    """What the order of a stream is drawn for; the counter that follows is the epoch.

    Args:
        stream: its name.
    """
    usual = {"train": (Purpose.TRAIN_ORDER,), "meta": (Purpose.META_ORDER,)}
    return usual.get(stream, (Purpose.STREAM_ORDER, zlib.crc32(stream.encode())))


def crop_purpose(stream: str) -> tuple[int, ...]:
    """What a stream's random crops are drawn for; the counters that follow are step or epoch, and row.

    Args:
        stream: its name.
    """
    usual = {"train": (Purpose.TRAIN_CROP,), "meta": (Purpose.META_CROP,)}
    return usual.get(stream, (Purpose.STREAM_CROP, zlib.crc32(stream.encode())))


@dataclasses.dataclass(frozen=True)
class PassOrder:
    """All rows in order, pass after pass without end; each pass's last chunk is padded with row 0.

    Attributes:
        num_examples: N.
        chunk_size: rows a chunk.
    """

    num_examples: int
    chunk_size: int

    def __len__(self) -> int:
        """Chunks a pass."""
        return -(-self.num_examples // self.chunk_size)

    def __call__(self, step: int) -> np.ndarray:
        """[chunk_size] int32."""
        first = step % len(self) * self.chunk_size
        rows = np.arange(first, first + self.chunk_size, dtype=np.int32)
        return np.where(rows < self.num_examples, rows, 0)
