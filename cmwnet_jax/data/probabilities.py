"""Class probabilities that a config names by file."""

import ml_dtypes
import numpy as np

from cmwnet_jax.array_files import read_npy
from cmwnet_jax.errors import UsageError

_TOLERANCE = 1e-3
_HALF = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def load_probabilities(field: str, path: str, shape: tuple[int, int], hint: str) -> np.ndarray:
    """Class probabilities from an .npy file, of any kind of numbers and of either byte order.

    Args:
        field: the config's, for the error.
        path: the file.
        shape: (training split, C) of the data set.
        hint: how to come by such a file, for the error.

    Returns:
        [training split, C] of the file's dtype; float32 where that is of half precision, each row then
        divided by its sum. Rows of zeros, which stand for examples that a run has left out, stay.

    Raises:
        UsageError: the file cannot be read, has another shape, or a row that is no distribution nor zeros.
    """
    problem = f"{field} is {path!r}, expected an .npy file of class probabilities, one row a training example"
    values = read_npy(path, problem, hint, finite=False)
    if values.shape != shape:
        raise UsageError(
            f"{field} is {path!r} with shape {values.shape}, expected {shape} for this data set: take one made "
            f"for it"
        )
    # Sixteen bits hold a row's sum to within their own rounding alone.
    is_half = values.dtype in _HALF
    tolerance = max(_TOLERANCE, float(ml_dtypes.finfo(values.dtype).eps)) if is_half else _TOLERANCE
    sums = values.sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # NaN fails both comparisons
        good = np.all(values >= 0, axis=1) & ((np.abs(sums - 1) < tolerance) | (sums == 0))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise UsageError(
            f"{field} is {path!r}, where {np.sum(~good)} rows are not distributions, first row {row} (the sum "
            f"is {sums[row]:g}), expected probabilities that sum to one (the softmax, not the logits): {hint}"
        )
    if is_half:
        values = values.astype(np.float32) / np.where(sums == 0, 1, sums)[:, None].astype(np.float32)
    return values
