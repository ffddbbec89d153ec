"""Fourteen image ops inside the compiled program, one per example, for `rand_augment`.

A branch per op would not be faster: over a batch, all branches are computed. All examples therefore share
three passes, and each pass leaves examples alone whose op is of another kind:

1. resampling by a 2 x 3 matrix: rotate, shear and translate;
2. a table of 256 grey levels per channel: autocontrast, brightness, contrast, equalize, posterize
   and solarize;
3. blending with a degenerate image: color and sharpness.

Ops and rounding are those of Pillow's ImageOps, ImageEnhance and Image.transform.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cmwnet_jax.errors import UsageError

OPS = (
    "autocontrast", "brightness", "color", "contrast", "equalize", "identity", "posterize",
    "rotate", "sharpness", "shear_x", "shear_y", "solarize", "translate_x", "translate_y",
)  # fmt: skip
_RESAMPLE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_TABLE = ("autocontrast", "brightness", "contrast", "equalize", "posterize", "solarize")
_BLEND = ("color", "sharpness")

_LEVELS = 256
_ROTATE_RADIANS = math.radians(30)
_SHEAR = 0.3
_TRANSLATE = 0.3  # of the image's width or height
_FIXED = 1 << 16  # positions and shares are 16.16 fixed point; positions are rounded as in Pillow

Matrices = tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def apply_ops(images: jax.Array, ops: jax.Array, strengths: jax.Array) -> jax.Array:
    """Applies one op per example.

    At strength 1, brightness, color, contrast and sharpness keep 0.05 of the difference from Pillow's
    degenerate image (0.95 at strength 0), posterize keeps 4 bits (8), solarize's threshold is 0 (256), and
    rotation is by 30 degrees, shear by 0.3 and translation by 0.3 of the side (0). Pixels from outside of the
    image are black.

    Args:
        images: [n, height, width, channels] uint8, of 1 or 3 channels.
        ops: [n] int32, indices into `OPS`.
        strengths: [n] float32 in [-1, 1]; the sign is the direction of rotate, shear and translate.

    Returns:
        [n, height, width, channels] uint8.

    Raises:
        UsageError: the images are neither grey nor RGB.

    Source:
        The table of transformations in the appendix of Sohn et al., FixMatch, NeurIPS 2020.
    """
    if images.dtype != jnp.uint8 or images.shape[-1] not in (1, 3):
        raise UsageError(
            f"images are {images.dtype} with {images.shape[-1]} channels, expected uint8 with 1 or 3 for "
            f"RandAugment: convert them, or leave it out"
        )
    pixels, amounts = images.astype(jnp.int32), jnp.abs(strengths)
    pixels = _if_any(
        _is(ops, *_RESAMPLE), lambda p: _resample(p, _matrices(ops, strengths, *images.shape[1:3])), pixels
    )
    unchanged = jnp.broadcast_to(jnp.arange(_LEVELS), (len(images), images.shape[-1], _LEVELS))
    tables = _if_any(_is(ops, *_TABLE), lambda t: _tables(t, pixels, ops, amounts), unchanged)
    pixels = _look_up(pixels, tables)
    pixels = _if_any(_is(ops, *_BLEND), lambda p: _blend_images(p, ops, amounts), pixels)
    return pixels.astype(jnp.uint8)


def _if_any(needed: jax.Array, change: Callable, value: jax.Array) -> jax.Array:
    """Changes the value if any example needs it.

    In a large batch some example does. The conditional is needed all the same: without it, XLA fuses the passes
    (on a CPU even across barriers) and computes one pass again for each pixel of the next. With it, the program
    is three to five times faster.
    """
    return jax.lax.cond(jnp.any(needed), change, lambda v: v, value)


def _is(ops: jax.Array, *names: str) -> jax.Array:
    """[n] bool, whether each op is one of these."""
    return jnp.isin(ops, jnp.array([OPS.index(name) for name in names]))


def _matrices(ops: jax.Array, strengths: jax.Array, height: int, width: int) -> Matrices:
    """2 x 3 matrices that map output positions to input positions; each entry is [n] float32."""

    def amount(name, largest):
        return jnp.where(_is(ops, name), strengths * largest, 0)

    # At most one amount is not 0, so the sum over ops is the matrix of the one op.
    angle = amount("rotate", _ROTATE_RADIANS)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    cx, cy = width / 2, height / 2
    start_x = cx - cos * cx + sin * cy + amount("translate_x", _TRANSLATE * width)
    start_y = cy - sin * cx - cos * cy + amount("translate_y", _TRANSLATE * height)
    return (cos, -sin + amount("shear_x", _SHEAR), start_x), (sin + amount("shear_y", _SHEAR), cos, start_y)


def _resample(pixels: jax.Array, matrices: Matrices) -> jax.Array:
    """The pixel nearest to where the matrix maps each pixel's centre, black outside; int32."""
    count, height, width, channels = pixels.shape
    x, y = jnp.arange(width)[None, None, :], jnp.arange(height)[None, :, None]

    def place(*row):
        along_x, along_y, start = (jnp.floor(v * _FIXED + 0.5).astype(jnp.int32)[:, None, None] for v in row)
        return (along_x * x + along_y * y + start) >> 16

    from_x, from_y = (place(a, b, c + a / 2 + b / 2) for a, b, c in matrices)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    index = jnp.where(inside, from_y * width + from_x, 0).reshape(count, -1)
    flat = pixels.reshape(count, -1, channels)
    taken = jax.vmap(lambda image, at: image.at[at].get(mode="promise_in_bounds"))(flat, index)
    return jnp.where(inside[..., None], taken.reshape(pixels.shape), 0)


def _tables(chosen: jax.Array, pixels: jax.Array, ops: jax.Array, amounts: jax.Array) -> jax.Array:
    """[n, channels, 256] int32, the new value of each level; `chosen` is kept if the op has no table."""
    level = jnp.arange(_LEVELS)
    amount = amounts[:, None, None]
    keep = _kept(amount)
    mean = _mean_grey(pixels)[:, None, None]
    bits_lost = jnp.minimum(5 * amount, 4).astype(jnp.int32)  # 0 to 4, equally often for uniform amounts
    threshold = _LEVELS * (1 - amount)
    tables = {
        "autocontrast": _stretch_table(pixels, level),
        "brightness": _blend(0, level, keep),
        "contrast": _blend(mean, level, keep),
        "equalize": _equalize_table(pixels, level),
        "posterize": (level >> bits_lost) << bits_lost,
        "solarize": jnp.where(level < threshold, level, _LEVELS - 1 - level),
    }
    for name, table in tables.items():
        chosen = jnp.where(_is(ops, name)[:, None, None], table, chosen)
    return chosen


def _stretch_table(pixels: jax.Array, level: jax.Array) -> jax.Array:
    """Autocontrast: each channel's darkest level becomes 0 and its lightest 255; [n, channels, 256]."""
    low = jnp.min(pixels, axis=(1, 2))[..., None]
    spread = jnp.max(pixels, axis=(1, 2))[..., None] - low
    stretched = (level - low) * (_LEVELS - 1) // jnp.maximum(spread, 1)
    return jnp.where(spread > 0, jnp.clip(stretched, 0, _LEVELS - 1), level)


def _equalize_table(pixels: jax.Array, level: jax.Array) -> jax.Array:
    """Equalize: makes each channel's levels as equally frequent as a table can; [n, channels, 256]."""
    # One flat scatter: XLA's scatter over a batch of histograms is five times slower on a CPU.
    at = pixels + _table_starts(pixels)
    counts = jnp.zeros(len(pixels) * pixels.shape[-1] * _LEVELS, jnp.int32)
    counts = counts.at[at.reshape(-1)].add(1, mode="promise_in_bounds").reshape(-1, pixels.shape[-1], _LEVELS)
    darker = jnp.cumsum(counts, axis=-1) - counts
    lightest = jnp.max(pixels, axis=(1, 2))[..., None]
    # Pixels below the lightest level, divided by 255 steps. A channel of one level has none.
    step = jnp.take_along_axis(darker, lightest, axis=-1) // (_LEVELS - 1)
    spread = jnp.minimum((step // 2 + darker) // jnp.maximum(step, 1), _LEVELS - 1)
    return jnp.where(step > 0, spread, level)


def _look_up(pixels: jax.Array, tables: jax.Array) -> jax.Array:
    """Each pixel's value in its image's and channel's table."""
    return tables.reshape(-1).at[pixels + _table_starts(pixels)].get(mode="promise_in_bounds")


def _table_starts(pixels: jax.Array) -> jax.Array:
    """[n, 1, 1, channels] int32, the offset of each channel's table among all tables laid end to end."""
    count, channels = len(pixels), pixels.shape[-1]
    return _LEVELS * jnp.arange(count * channels).reshape(count, 1, 1, channels)


def _blend_images(pixels: jax.Array, ops: jax.Array, amounts: jax.Array) -> jax.Array:
    """Color and sharpness; int32."""
    is_color, is_sharpness = (_is(ops, name)[:, None, None, None] for name in ("color", "sharpness"))
    keep = jnp.where(is_color | is_sharpness, _kept(amounts)[:, None, None, None], 1)
    return _blend(jnp.where(is_color, _grey(pixels)[..., None], _smooth(pixels)), pixels, keep)


def _kept(amounts: jax.Array) -> jax.Array:
    """The factor of Pillow's ImageEnhance: 1 keeps the image, 0 gives the degenerate image."""
    return 0.95 - 0.9 * amounts


def _blend(degenerate: jax.Array, original: jax.Array, keep: jax.Array) -> jax.Array:
    """`degenerate + keep * (original - degenerate)`, truncated to int32; the original where keep is 1."""
    # In integers: in floating point, truncation would depend on how the program was compiled.
    share = jnp.round(keep * _FIXED).astype(jnp.int32)
    return (degenerate * _FIXED + share * (original - degenerate)) >> 16


def _grey(pixels: jax.Array) -> jax.Array:
    """[n, height, width] int32 luminance (ITU-R 601-2), in Pillow's 16-bit fixed point."""
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    red, green, blue = (pixels[..., i] for i in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16


def _mean_grey(pixels: jax.Array) -> jax.Array:
    """[n] int32, the rounded mean luminance."""
    grey = _grey(pixels)
    count = grey[0].size
    return (jnp.sum(grey, axis=(1, 2)) + count // 2) // count


def _smooth(pixels: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: a 3 x 3 mean with weight 5 at the centre; the border is unchanged."""
    height, width = pixels.shape[1:3]
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = sum(padded[:, i : i + height] for i in range(3))
    total = sum(columns[:, :, i : i + width] for i in range(3)) + 4 * pixels
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inner = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    return jnp.where(inner, (2 * total + 13) // 26, pixels)
