"""Image augmentation inside the compiled step: crops, flips, colour jitter, RandAugment, normalising.

The random draws of an example depend only on the key and the example's row. A batch is therefore augmented
in the same way when it is split over devices, or read by the other input path.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.data.color_jitter import jitter_colors
from cmwnet_jax.data.rand_augment import cut_out, rand_augment
from cmwnet_jax.errors import UsageError, unknown_name

PAD_MODES = ("reflect", "constant")

# Streams of the key; larger than any row, whose streams they must not meet.
_RAND, _COLOR = 0x72616E64, 0x636F6C6F


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to training images; by default there are none.

    Attributes:
        pad_pixels: border added on each side before a random crop of the original size.
        pad_mode: "reflect" or "constant" (black).
        flip: whether to mirror images left to right with probability 1/2.
        color_jitter: strength of random changes of brightness, contrast and saturation, after crop and flip.
        rand_ops: number of RandAugment ops per example, applied after those. Their strength is drawn
            as in FixMatch.
        cutout_pixels: side of a grey square at a random place, drawn last; 0 for none.
    """

    pad_pixels: int = 0
    pad_mode: str = "reflect"
    flip: bool = False
    color_jitter: float = 0.0
    rand_ops: int = 0
    cutout_pixels: int = 0

    def __post_init__(self):
        if self.pad_mode not in PAD_MODES:
            raise unknown_name("augment.pad_mode", self.pad_mode, PAD_MODES)
        for field in ("pad_pixels", "color_jitter", "rand_ops", "cutout_pixels"):
            if getattr(self, field) < 0:
                raise UsageError(f"augment.{field} is {getattr(self, field)}, expected at least 0")


def augment(images: jax.Array, rows: jax.Array, key: jax.Array, change: Augmentation) -> jax.Array:
    """Crops and flips at random, then applies colour jitter, RandAugment and cutout.

    Args:
        images: [n, height, width, channels] of any dtype; colour jitter and RandAugment need uint8 with 1 or 3
            channels, and cutout uint8.
        rows: [n] int32, the examples' rows.
        key: random key of this step and purpose.
        change: the changes to apply.

    Returns:
        Images of the same shape and dtype.

    Raises:
        UsageError: colour jitter or RandAugment is requested for images that are neither grey nor RGB.
    """
    if change.pad_pixels or change.flip:
        images = _crop_and_flip(images, rows, key, change)
    if change.color_jitter:
        if images.shape[-1] not in (1, 3):
            raise UsageError(
                f"augment.color_jitter is {change.color_jitter}, but images have {images.shape[-1]} channels, "
                f"expected 1 or 3: set it to 0.0"
            )
        images = jitter_colors(images, rows, jax.random.fold_in(key, _COLOR), change.color_jitter)
    if change.rand_ops:
        rand_key = jax.random.fold_in(key, _RAND)
        images = rand_augment(images, rows, rand_key, num_ops=change.rand_ops, magnitude=None)
    if change.cutout_pixels:
        images = cut_out(images, rows, jax.random.fold_in(key, _RAND), change.cutout_pixels)
    return images


def _crop_and_flip(images: jax.Array, rows: jax.Array, key: jax.Array, change: Augmentation) -> jax.Array:
    pad = change.pad_pixels
    if pad:
        images_padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=change.pad_mode)
    else:
        images_padded = images

    def one(image, row):
        place_key, flip_key = jax.random.split(jax.random.fold_in(key, row))
        if pad:
            y, x = jax.random.randint(place_key, (2,), 0, 2 * pad + 1)
            image = jax.lax.dynamic_slice(image, (y, x, 0), images.shape[1:])
        if change.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images_padded, rows)


def pixel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1].

    Counts grey levels, so no floating-point copy of the images is made.

    Args:
        images: [N, height, width, channels] uint8.

    Returns:
        mean [channels] and std [channels], float32; a constant channel's std is 1/255.
    """
    levels = np.arange(256) / 255
    channels = images.reshape(-1, images.shape[-1])
    shares = np.stack([np.bincount(channel, minlength=256) for channel in channels.T]) / len(channels)
    mean = shares @ levels
    variance = shares @ levels**2 - mean**2
    return mean.astype(np.float32), np.maximum(np.sqrt(np.maximum(variance, 0)), 1 / 255).astype(np.float32)


def column_moments(chunks: Iterable[np.ndarray], together: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of vectors, in float64, in one pass.

    Args:
        chunks: parts [n, d] float of all vectors; at least one example in all.
        together: whether all columns get the square root of the mean of their variances.

    Returns:
        mean [d] and std [d], float32; the std of a constant column is 1, so that it is only shifted; with
        `together`, only if all columns are constant.
    """
    count, total, squares, origin = 0, 0.0, 0.0, None
    for chunk in chunks:
        values = chunk.astype(np.float64)
        origin = values[0].copy() if origin is None else origin  # near the data: no digits cancel
        values -= origin
        count += len(values)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    mean = origin + total / count
    variance = np.maximum(squares / count - (total / count) ** 2, 0)
    if together:
        std = np.full(len(mean), np.sqrt(np.mean(variance)) or 1)
        return mean.astype(np.float32), std.astype(np.float32)
    std = np.sqrt(variance)
    # Smaller differences than float32 resolves are none.
    return mean.astype(np.float32), np.where(std <= 1e-7 * np.abs(mean), 1, std).astype(np.float32)


def check_augmentation(change: Augmentation, image_shape: tuple[int, ...]) -> None:
    """Checks that the augmentation suits the images.

    Args:
        change: the changes to apply.
        image_shape: (height, width, channels), or the shape of an input that is no image.

    Raises:
        UsageError: the inputs are no images, the images are too small for the border, or colour jitter or
            RandAugment do not support their channels.
    """
    if len(image_shape) != 3:
        for field, off in dataclasses.asdict(Augmentation()).items():
            if field != "pad_mode" and getattr(change, field) != off:
                raise UsageError(
                    f"augment.{field} is {getattr(change, field)}, but the inputs are no images but have the "
                    f"shape {tuple(image_shape)}: leave it {off}"
                )
        return
    side = min(image_shape[:2])
    if change.pad_pixels >= side:
        raise UsageError(
            f"augment.pad_pixels is {change.pad_pixels}, expected fewer than the images' shorter side, {side}, "
            f"so that every crop shows part of the image: lower it"
        )
    images, row = np.zeros((1, *image_shape), np.uint8), np.zeros(1, np.int32)
    jax.eval_shape(lambda key: augment(images, row, key, change), jax.random.key(0))
