"""Order of the examples, and batches on the device.

The order depends only on seed and epoch. A resumed run therefore sees the same batches, and so do both input
paths, unless they list the examples in different orders (Q47).
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
    """Examples as they are stored: a whole split on the device, or one batch.

    Attributes:
        image: [n, height, width, channels] uint8, or inputs of another kind (`data.kinds`); or a tuple of
            such arrays, one for each view of a stream, if each view has random crops of its own.
        label: [n] int32, given labels; those of a meta set may be [n, C] float32.
        row: [n] int32, the examples' rows in their split, which determine their augmentation.
    """

    image: jax.Array | tuple[jax.Array, ...]
    label: jax.Array
    row: jax.Array

    @classmethod
    def whole(cls, images: np.ndarray, labels: np.ndarray) -> "Raw":
        """Makes a whole split on the host.

        Args:
            images: as `image`.
            labels: [N] int.
        """
        return cls(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int32))

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: jax.Array) -> "Raw":
        """Gathers these rows of a whole split; runs inside the compiled step.

        Args:
            rows: [m] int32.
        """

        def gather(images):
            # Gather flat pixels: over four axes, XLA's gather is seven times slower on a CPU.
            return images.reshape(len(images), -1)[rows].reshape(len(rows), *images.shape[1:])

        return Raw(jax.tree.map(gather, self.image), self.label[rows], self.row[rows])


class Selection(NamedTuple):
    """Examples of a split with labels to use for them, e.g. an epoch's meta set.

    Attributes:
        rows: [M] int64, rows of the split.
        labels: [M] int class indices or [M, C] float distributions.
    """

    rows: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The rows of each batch of a stream: consecutive random permutations of its examples, new in each epoch.

    Each permutation leaves out its last partial batch, so that no batch holds an example twice. If the stream
    has no more examples than one batch, every batch holds all of them (Q21).

    Attributes:
        seed: the run's seed.
        num_examples: M, examples of the stream.
        batch_size: n, the largest size of a batch.
        steps: batches per epoch; 0 for one pass without the last partial batch.
        stream: name of the stream; the streams of one run have different orders.
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

    @functools.lru_cache(maxsize=4)  # noqa: B019  (a few epochs' rows, shared by all orders)
    def epoch(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, [steps, min(n, M)] int32."""
        size = min(self.batch_size, self.num_examples)
        rng = generator(self.seed, *order_purpose(self.stream), epoch)
        whole = self.num_examples // size * size
        passes = -(-self.epoch_steps * size // whole)
        order = np.concatenate([rng.permutation(self.num_examples)[:whole] for _ in range(passes)])
        return order[: self.epoch_steps * size].reshape(self.epoch_steps, size).astype(np.int32)

    def __call__(self, step: int) -> np.ndarray:
        """The rows of a step; steps are counted from the start of the run."""
        epoch, index = divmod(step, self.epoch_steps)
        return self.epoch(epoch)[index]


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedOrder:
    """A `BatchOrder`, but from some epoch on, every class equally often (class-aware sampling).

    Consecutive random permutations of the classes give the class of each place, and consecutive random
    permutations of a class's examples fill its places. A batch may hold an example of a small class twice.

    Attributes:
        usual: the order before.
        labels: [M] int, the class of each example of the stream; -1 without a label, which is never drawn.
        first_epoch: first epoch with balanced classes.
    """

    usual: BatchOrder
    labels: np.ndarray
    first_epoch: int

    @property
    def batch_size(self) -> int:
        """Largest size of a batch."""
        return self.usual.batch_size

    @property
    def epoch_steps(self) -> int:
        """Batches per epoch."""
        return self.usual.epoch_steps

    @functools.lru_cache(maxsize=4)  # noqa: B019  (a few epochs' rows)
    def epoch(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, [steps, min(n, M)] int32."""
        rows = self.usual.epoch(epoch)
        if epoch < self.first_epoch:
            return rows
        rng = generator(self.usual.seed, *order_purpose(self.usual.stream), epoch)
        classes = np.unique(self.labels[self.labels >= 0])
        chosen = classes[_permutations(rng, len(classes), rows.size)]
        balanced = np.empty(rows.size, np.int32)
        for c in classes:
            members, places = np.flatnonzero(self.labels == c), np.flatnonzero(chosen == c)
            balanced[places] = members[_permutations(rng, len(members), len(places))]
        return balanced.reshape(rows.shape)

    def __call__(self, step: int) -> np.ndarray:
        """The rows of a step; steps are counted from the start of the run."""
        epoch, index = divmod(step, self.epoch_steps)
        return self.epoch(epoch)[index]


def _permutations(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
    """The first `length` numbers of consecutive random permutations of `range(size)`."""
    passes = [rng.permutation(size) for _ in range(-(-length // size))]
    return np.concatenate([*passes, np.empty(0, int)])[:length]


def order_purpose(stream: str) -> tuple[int, ...]:
    """Random purpose of a stream's order; the counter that follows is the epoch.

    Args:
        stream: the stream's name.
    """
    usual = {"train": (Purpose.TRAIN_ORDER,), "meta": (Purpose.META_ORDER,)}
    return usual.get(stream, (Purpose.STREAM_ORDER, zlib.crc32(stream.encode())))


def crop_purpose(stream: str) -> tuple[int, ...]:
    """Random purpose of a stream's crops; the counters that follow are step or epoch, and row.

    Args:
        stream: the stream's name.
    """
    usual = {"train": (Purpose.TRAIN_CROP,), "meta": (Purpose.META_CROP,)}
    return usual.get(stream, (Purpose.STREAM_CROP, zlib.crc32(stream.encode())))


@dataclasses.dataclass(frozen=True)
class PassOrder:
    """All rows in order, repeated for ever; the last chunk of each pass is padded with row 0.

    Attributes:
        num_examples: N, rows per pass.
        chunk_size: rows per chunk.
    """

    num_examples: int
    chunk_size: int

    def __len__(self) -> int:
        """Chunks per pass."""
        return -(-self.num_examples // self.chunk_size)

    def __call__(self, step: int) -> np.ndarray:
        """The rows of a chunk, [chunk_size] int32."""
        first = step % len(self) * self.chunk_size
        rows = np.arange(first, first + self.chunk_size, dtype=np.int32)
        return np.where(rows < self.num_examples, rows, 0)
