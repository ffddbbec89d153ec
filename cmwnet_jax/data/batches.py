"""The order of the examples, and batches on the device.

Order is a function of seed and epoch alone, so that a resumed run, and either input path, sees the
same batches.
"""

import dataclasses
import functools

import jax
import numpy as np
from flax import struct

from cmwnet_jax.data.streams import Purpose, stream


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


@dataclasses.dataclass(frozen=True)
class TrainOrder:
    """The rows of every step of a run, a fresh permutation each epoch, without end.

    Attributes:
        seed: of the run.
        num_examples: N.
        batch_size: n; an epoch's last partial batch is left out.
    """

    seed: int
    num_examples: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.num_examples // self.batch_size

    @functools.lru_cache(maxsize=2)  # noqa: B019  (two epochs' rows, whatever the orders that ask)
    def epoch(self, epoch: int) -> np.ndarray:
        """[steps, n] int32, the rows of an epoch."""
        order = stream(self.seed, Purpose.TRAIN_ORDER, epoch).permutation(self.num_examples)
        return order[: self.steps * self.batch_size].reshape(self.steps, -1).astype(np.int32)

    def __call__(self, step: int) -> np.ndarray:
        """[n] int32, the rows of a step counted from the run's first."""
        epoch, index = divmod(step, self.steps)
        return self.epoch(epoch)[index]


def meta_rows(seed: int, epoch: int, num_examples: int, steps: int, batch_size: int) -> np.ndarray:
    """[steps, m] int32, m = min(batch_size, M): permutations of the meta set, one after another.

    A meta set no larger than the batch is the batch (Q21).

    Args:
        seed: of the run.
        epoch: number of the epoch, from 0.
        num_examples: M, the meta set's.
        steps: how many batches.
        batch_size: examples of each batch, at most.
    """
    size = min(batch_size, num_examples)
    rng = stream(seed, Purpose.META_ORDER, epoch)
    order = np.concatenate([rng.permutation(num_examples) for _ in range(-(-steps * size // num_examples))])
    return order[: steps * size].reshape(steps, size).astype(np.int32)


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
