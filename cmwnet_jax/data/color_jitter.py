"""Colour jitter inside the compiled program: brightness, contrast and saturation, in random order.

The changes are those of torchvision's ColorJitter without hue, on floats that are clipped after each change.
"""

import jax
import jax.numpy as jnp

CHANGES = ("brightness", "contrast", "saturation")

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R 601-2)


def jitter_colors(images: jax.Array, rows: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    """Changes each image's colours; the draws of an example depend only on the key and its row.

    Args:
        images: [n, height, width, channels] uint8, with 1 or 3 channels.
        rows: [n] int32, the examples' rows.
        key: random key of this step and purpose.
        strength: each factor is uniform in [1 - strength, 1 + strength]; in [0, 1].

    Returns:
        [n, height, width, channels] uint8.

    Source:
        Howard, "Some improvements on deep convolutional neural network based image classification", 2013.
    """
    order, factors = draw_changes(rows, key, strength)
    return change_colors(images, order, factors)


def draw_changes(rows: jax.Array, key: jax.Array, strength: float) -> tuple[jax.Array, jax.Array]:
    """Draws the changes of `jitter_colors`.

    Args:
        rows, key, strength: as in `jitter_colors`.

    Returns:
        order [n, 3] int32, permutations of indices into `CHANGES`, and the factor of each place [n, 3] float32.
    """

    def one(row):
        order_key, factor_key = jax.random.split(jax.random.fold_in(key, row))
        order = jnp.argsort(jax.random.uniform(order_key, (len(CHANGES),)))
        shape, ends = (len(CHANGES),), (1 - strength, 1 + strength)
        return order, jax.random.uniform(factor_key, shape, jnp.float32, *ends)

    return jax.vmap(one)(rows)


def change_colors(images: jax.Array, order: jax.Array, factors: jax.Array) -> jax.Array:
    """Applies the changes: each blends with black, with the mean grey, or with the grey image.

    Args:
        images: as in `jitter_colors`.
        order: [n, 3] int32, indices into `CHANGES`, in the order in which they are applied.
        factors: [n, 3] float; 1 leaves the image as it is, 0 gives what it is blended with.

    Returns:
        [n, height, width, channels] uint8, rounded once, at the end.
    """
    x = images.astype(factors.dtype)
    for change, factor in zip(order.T[..., None, None, None], factors.T[..., None, None, None], strict=True):
        grey = _grey(x)
        mean = jnp.mean(grey, axis=(1, 2, 3), keepdims=True)
        towards = jnp.where(change == 0, 0, jnp.where(change == 1, mean, grey))
        x = jnp.clip(towards + factor * (x - towards), 0, 255)
    return jnp.round(x).astype(jnp.uint8)


def _grey(x: jax.Array) -> jax.Array:
    """[n, height, width, 1] luminance."""
    if x.shape[-1] == 1:
        return x
    return sum(share * x[..., c : c + 1] for c, share in enumerate(_GREY))
