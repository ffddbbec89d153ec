"""RandAugment inside the compiled program: which ops an image undergoes, how strong, and cutout.

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
    """Random ops of a fixed pool, one after the other; each example's depend on the key and its row alone.

    Args:
        images: [n, height, width, channels] uint8, of 1 or 3 channels.
        rows: [n] int32, the examples' rows.
        key: of this step and purpose.
        num_ops: ops an example, each drawn uniformly from `OPS`, with replacement.
        magnitude: how strong they are, 0 to 10, where 10 is the end of FixMatch's range that changes the
            image most; None draws it uniformly for each op, as FixMatch does.
        cutout_pixels: side of a grey square put at a random place in the end; 0: none.

    Returns:
        [n, height, width, channels] uint8.

    Raises:
        UsageError: a number out of its range, or images that are neither grey nor RGB.

    Source:
        Cubuk et al., RandAugment, CVPR Workshops 2020; its ranges are from Sohn et al., FixMatch,
        NeurIPS 2020, and cutout is from DeVries and Taylor, arXiv:1708.04552.

    Example:
        >>> images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
        >>> rand_augment(images, jnp.arange(4), jax.random.key(0), num_ops=2, magnitude=None).shape
        (4, 8, 8, 3)
    """
    if cutout_pixels < 0:
        raise UsageError(f"cutout_pixels is {cutout_pixels}, expected at least 0")
    ops, strengths = draw_ops(rows, key, num_ops=num_ops, magnitude=magnitude)
    # A loop, so that the rounds are one program and are not fused into each other.
    images, _ = jax.lax.scan(lambda x, drawn: (apply_ops(x, *drawn), None), images, (ops.T, strengths.T))
    if cutout_pixels:
        images = _cut_out(images, _keys(rows, key)[:, 3], cutout_pixels)
    return images


def draw_ops(
    rows: jax.Array, key: jax.Array, *, num_ops: int, magnitude: float | None
) -> tuple[jax.Array, jax.Array]:
    """The ops that `rand_augment` applies, in order.

    Args:
        rows: [n] int32, the examples' rows.
        key: as given to `rand_augment`.
        num_ops: ops an example.
        magnitude: 0 to 10, or None.

    Returns:
        ops [n, num_ops] int32, places in `OPS`, and their strengths [n, num_ops] float32 in [-1, 1], either
        sign with probability one half.

    Raises:
        UsageError: a number out of its range.
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
    """[n, 4] keys: of ops, of strengths, of signs and of cutout's places."""
    return jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row), 4))(rows)


def _cut_out(images: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """A grey square in each image, its middle anywhere in it, so that the border may cut it."""
    height, width = images.shape[1:3]
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.array([height, width])))
    top, left = (draw(keys) - side // 2).T[..., None, None]
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    cut = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    return jnp.where(cut[..., None], jnp.uint8(_CUTOUT_GREY), images)
