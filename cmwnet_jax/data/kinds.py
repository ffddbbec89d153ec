"""Kinds of input that a data set may have: images, vectors of numbers, and sequences of tokens.

An example's input is stored under the name `image`, as in tfds, whatever its kind. The dtype tells the kind.
"""

import numpy as np

IMAGES, VECTORS, TOKENS = "images", "vectors", "tokens"

DTYPES = {IMAGES: np.dtype(np.uint8), VECTORS: np.dtype(np.float32), TOKENS: np.dtype(np.int32)}
"""Kind -> dtype of its prepared examples: [height, width, channels], [d] and [length]."""

PADDING = 0
"""The token that fills up sequences shorter than the longest one; models must ignore it."""


def kind_of(dtype: np.dtype) -> str:
    """The kind of prepared examples of this dtype, one of `DTYPES`.

    Args:
        dtype: uint8, float32 or int32.

    Example:
        >>> kind_of(np.dtype("float32"))
        'vectors'
    """
    return next(kind for kind, own in DTYPES.items() if own == dtype)
