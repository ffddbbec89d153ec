"""Class probabilities that a config names by file."""

from pathlib import Path

import numpy as np

from cmwnet_jax.errors import UsageError


def load_probabilities(field: str, path: str, shape: tuple[int, int], hint: str) -> np.ndarray:
    """Class probabilities from an .npy file; whether the rows are distributions is checked where they are used.

    Args:
        field: the config's, for the error.
        path: the file.
        shape: (training split, C) of the data set.
        hint: how to come by such a file, for the error.

    Returns:
        [training split, C] of the file's dtype.

    Raises:
        UsageError: the file cannot be read, or has another shape.
    """
    try:
        values = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{field} is {path!r}, expected an .npy file of class probabilities, one row a training "
            f"example ({error}): {hint}"
        ) from error
    if values.shape != shape:
        raise UsageError(
            f"{field} is {path!r} with shape {values.shape}, expected {shape} for this data set: take one made "
            f"for it"
        )
    return values
