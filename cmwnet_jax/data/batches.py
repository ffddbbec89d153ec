"""The device path: the data set lives on the device, batches are rows gathered inside the step.

Order is a function of seed and epoch alone, so that a resumed run sees the same batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

# Streams of the seed, one a purpose, so that no two draws share random numbers.
_TRAIN_ORDER, _META_ORDER = 1, 2


@struct.dataclass
class Table:
    """A training split on the device.

    Attributes:
        images: [N, height, width, channels] uint8.
        labels: [N] int32, given labels.
        mean: [channels] float32, of the training images scaled to [0, 1].
        std: [channels] float32, of the same.
    """

    images: jax.Array
    labels: jax.Array
    mean: jax.Array
    std: jax.Array

    @classmethod
    def create(cls, images: np.ndarray, labels: np.ndarray, like: "Table | None" = None) -> "Table":
        """A table of these examples, standardised by its own images or as `like` is.

        Args:
            images: [N, height, width, channels] uint8.
            labels: [N] int.
            like: the training table, whose mean and deviation a test table takes over.
        """
        if like is None:
            pixels = images.reshape(-1, images.shape[-1]) / np.float32(255)
            mean, std = pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1e-3)
        else:
            mean, std = like.mean, like.std
        return cls(images=images, labels=labels.astype(np.int32), mean=mean, std=std)


def gather(table: Table, rows: jax.Array) -> dict[str, jax.Array]:
    """The batch at these rows; runs inside the compiled step.

    Args:
        table: the examples.
        rows: [n] int32.

    Returns:
        `image` [n, height, width, channels] float32, standardised; `label` [n] int32.
    """
    image = table.images[rows].astype(jnp.float32) / 255
    return {"image": (image - table.mean) / table.std, "label": table.labels[rows]}


def epoch_rows(seed: int, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
    """[steps, batch_size] int32: a fresh permutation each epoch; the last partial batch is left out."""
    steps = num_examples // batch_size
    order = np.random.default_rng([seed, _TRAIN_ORDER, epoch]).permutation(num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def meta_rows(seed: int, epoch: int, meta_set: np.ndarray, steps: int, batch_size: int) -> np.ndarray:
    """[steps, m] int32, m = min(batch_size, M): permutations of the meta set, one after another.

    A meta set no larger than the batch is the batch (Q21).

    Args:
        seed, epoch: what the order is a function of.
        meta_set: [M] rows.
        steps: how many batches.
        batch_size: examples of each batch, at most.
    """
    size = min(batch_size, len(meta_set))
    rng = np.random.default_rng([seed, _META_ORDER, epoch])
    passes = -(-steps * size // len(meta_set))
    order = np.concatenate([rng.permutation(meta_set) for _ in range(passes)])
    return order[: steps * size].reshape(steps, size).astype(np.int32)
