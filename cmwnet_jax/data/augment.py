"""What happens to images inside the compiled step: padding, cropping, flipping, normalising.

Each example's draw is a function of the key and its row alone, so that a batch that is split over
devices, or read by another path, is augmented alike.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.errors import UsageError, unknown_name

PAD_MODES = ("reflect", "constant")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Which random changes training images undergo; the default is none.

    Attributes:
        pad_pixels: border added on each side before a crop of the original size at a random place.
        pad_mode: "reflect" or "constant", which is black.
        flip: whether images are mirrored left to right with probability one half.
    """

    pad_pixels: int = 0
    pad_mode: str = "reflect"
    flip: bool = False

    def __post_init__(self):
        if self.pad_mode not in PAD_MODES:
            raise unknown_name("augment.pad_mode", self.pad_mode, PAD_MODES)
        if self.pad_pixels < 0:
            raise UsageError(f"augment.pad_pixels is {self.pad_pixels}, expected at least 0")


def augment(images: jax.Array, rows: jax.Array, key: jax.Array, change: Augmentation) -> jax.Array:
    """Random crops and flips.

    Args:
        images: [n, height, width, channels] of any dtype.
        rows: [n] int32, the examples' rows.
        key: of this step and purpose.
        change: what to do.

    Returns:
        Like `images`.
    """
    if change.pad_pixels == 0 and not change.flip:
        return images
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


def standardize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """uint8 pixels as float32 of mean 0 and deviation 1 a channel.

    Args:
        images: [n, height, width, channels] uint8.
        mean: [channels] float32, of pixels scaled to [0, 1].
        std: [channels] float32, of the same.
    """
    return (images.astype(jnp.float32) / 255 - mean) / std


def pixel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, of pixels scaled to [0, 1].

    Counted by grey level, so that no copy of the images in floating point is made.

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
