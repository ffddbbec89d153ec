"""Kinds of input that a data set may have: images, vectors of numbers, and sequences of tokens.

An example's input is stored under the name `image`, as in tfds, whatever its kind. The dtype tells the kind.
"""

from collections.abc import Iterable

import numpy as np

from cmwnet_jax.errors import UsageError

IMAGES, VECTORS, TOKENS = "images", "vectors", "tokens"

DTYPES = {IMAGES: np.dtype(np.uint8), VECTORS: np.dtype(np.float32), TOKENS: np.dtype(np.int32)}
"""Kind -> dtype of its prepared examples: [height, width, channels], [d] and [length]."""

PADDING = 0
"""The token that fills up sequences shorter than the longest one; models must ignore it."""


MOST_TOKENS = 2**24
"""Largest vocabulary."""


def kind_of(dtype: np.dtype) -> str:
    """The kind of prepared examples of this dtype, one of `DTYPES`.

    Args:
        dtype: uint8, float32 or int32.

    Example:
        >>> kind_of(np.dtype("float32"))
        'vectors'
    """
    return next(kind for kind, own in DTYPES.items() if own == dtype)


def check_images(name: str, images: np.ndarray) -> np.ndarray:
    """Checks images, and returns them.

    Args:
        name: their name, for the error.
        images: [N, height, width, 1 or 3] uint8.

    Raises:
        UsageError: they are something else, or there is none.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise UsageError(
            f"{name} is {images.dtype} of shape {images.shape}, expected images [N, h, w, 1 or 3] uint8: "
            f"convert them to pixels from 0 to 255, channels last (of grey ones, X[..., None])"
        )
    return images


def check_tokens(name: str, tokens: np.ndarray) -> np.ndarray:
    """Checks tokens, and returns them as int32.

    Args:
        name: their name, for the error.
        tokens: [N, length] whole numbers, 0 for padding.

    Raises:
        UsageError: they are something else, are negative or too large, or there is none.
    """
    if tokens.dtype.kind not in "iu" or tokens.ndim != 2 or not tokens.size:
        raise UsageError(
            f"{name} is {tokens.dtype} of shape {tokens.shape}, expected tokens [N, length], whole numbers: "
            f"fill short texts up with {PADDING}"
        )
    if tokens.min() < 0 or tokens.max() >= MOST_TOKENS:
        raise UsageError(
            f"{name} has {tokens.min()} to {tokens.max()}, expected tokens from {PADDING} (padding) to "
            f"{MOST_TOKENS - 1}: number the words anew, or write floats if these are vectors"
        )
    return tokens.astype(np.int32)


def rounding_notes(columns: Iterable[tuple[str, np.ndarray]]) -> list[str]:
    """A sentence if float32 cannot tell the numbers of some columns apart well, as of times since 1970.

    Args:
        columns: the columns' names, and their numbers [N] before they are rounded to float32.
    """
    rounded = [name for name, column in columns if _loses_detail(column)]
    if not rounded:
        return []
    which = (
        f"{len(rounded)} columns (the first {rounded[0]!r})" if rounded[1:] else f"the column {rounded[0]!r}"
    )
    return [f"float32 hardly tells the numbers of {which} apart: standardise them first"]


def _loses_detail(column: np.ndarray) -> bool:
    """Whether neighbouring float32 numbers of the column's size are further apart than 1% of its deviation."""
    if column.dtype.kind not in "iuf" or column.dtype.itemsize < 4 or column.dtype == np.float32:
        return False
    if column.min() == column.max():  # whose deviation is a rounding error
        return False
    with np.errstate(all="ignore"):
        return bool(0 < column.std(dtype=np.float64) < 100 * np.spacing(np.float32(np.abs(column).max())))
