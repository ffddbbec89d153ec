"""RandAugment inside the compiled program: random choice and strength of the ops, and cutout.

The policy is that of Cubuk et al., "RandAugment" (CVPR Workshops 2020), with the pool of ops and the
ranges of Sohn et al., "FixMatch" (NeurIPS 2020).
"""

import jax
import jax.numpy as jnp

from cmwnet_jax.data.image_ops import OPS, apply_ops
from cmwnet_jax.errors import UsageError

MAX_MAGNITUDE = 10

_CUTOUT_GREY = 127


def rand_augment(
    images: jax.Array,
    rows: jax.Array,
    key: jax.Array,
    *,
    num_ops: int = 2,
    magnitude: float | None = MAX_MAGNITUDE,
    cutout_pixels: int = 0,
) -> jax.Array:
    """Applies random ops in sequence; the draws of an example depend only on the key and its row.

    Args:
        images: [n, height, width, channels] uint8, with 1 or 3 channels.
        rows: [n] int32, the examples' rows.
        key: random key of this step and purpose.
        num_ops: ops per example, each drawn uniformly from `OPS`, with replacement.
        magnitude: strength of the ops, 0 to 10; 10 is the end of FixMatch's range that changes the image
            most. None draws it uniformly for each op, as in FixMatch.
        cutout_pixels: side of a grey square at a random place, drawn last; 0 for none.

    Returns:
        [n, height, width, channels] uint8.

    Raises:
        UsageError: a number is out of range, or the images are neither grey nor RGB.

    Source:
        Cubuk et al., RandAugment, CVPR Workshops 2020; ranges from Sohn et al., FixMatch, NeurIPS 2020;
        cutout from DeVries and Taylor, arXiv:1708.04552.

    Example:
        >>> images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
        >>> rand_augment(images, jnp.arange(4), jax.random.key(0), num_ops=2, magnitude=None).shape
        (4, 8, 8, 3)
    """
    if cutout_pixels < 0:
        raise UsageError(f"cutout_pixels is {cutout_pixels}, expected at least 0")
    ops, strengths = draw_ops(rows, key, num_ops=num_ops, magnitude=magnitude)
    # A loop: the rounds are one program, and XLA does not fuse them.
    images, _ = jax.lax.scan(lambda x, drawn: (apply_ops(x, *drawn), None), images, (ops.T, strengths.T))
    if cutout_pixels:
        images = cut_out(images, rows, key, cutout_pixels)
    return images


def draw_ops(
    rows: jax.Array, key: jax.Array, *, num_ops: int, magnitude: float | None
) -> tuple[jax.Array, jax.Array]:
    """Draws the ops that `rand_augment` applies, in order.

    Args:
        rows: [n] int32, the examples' rows.
        key: as in `rand_augment`.
        num_ops: ops per example.
        magnitude: 0 to 10, or None.

    Returns:
        ops [n, num_ops] int32, indices into `OPS`, and their strengths [n, num_ops] float32 in [-1, 1] with
        random sign.

    Raises:
        UsageError: a number is out of range.
    """
    if not num_ops >= 0:
        raise UsageError(f"num_ops is {num_ops}, expected at least 0")
    if magnitude is not None and not 0 <= magnitude <= MAX_MAGNITUDE:
        raise UsageError(f"magnitude is {magnitude}, expected 0 to {MAX_MAGNITUDE}, or None to draw it")

    def one(keys):
        op = jax.random.randint(keys[0], (num_ops,), 0, len(OPS))
        drawn = jax.random.uniform(keys[1], (num_ops,), jnp.float32)
        strength = drawn if magnitude is None else jnp.full_like(drawn, magnitude / MAX_MAGNITUDE)
        return op, jnp.where(jax.random.bernoulli(keys[2], shape=(num_ops,)), strength, -strength)

    return jax.vmap(one)(_keys(rows, key))


def _keys(rows: jax.Array, key: jax.Array) -> jax.Array:
    """[n, 4] keys, for ops, strengths, signs and the position of cutout."""
    return jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row), 4))(rows)


def cut_out(images: jax.Array, rows: jax.Array, key: jax.Array, side: int) -> jax.Array:
    """Puts a grey square into each image; its centre is anywhere in the image, so it may be cut off.

    Args:
        images: [n, height, width, channels] uint8.
        rows: [n] int32, the examples' rows.
        key: as in `rand_augment`, whose ops have other draws.
        side: side of the square in pixels.
    """
    height, width = images.shape[1:3]
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.array([height, width])))
    top, left = (draw(_keys(rows, key)[:, 3]) - side // 2).T[..., None, None]
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    cut = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    return jnp.where(cut[..., None], jnp.uint8(_CUTOUT_GREY), images)
