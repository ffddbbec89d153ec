"""Reads the arrays of a run's folder and checks their names, dtypes and shapes."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmwnet_jax import array_files
from cmwnet_jax.errors import UsageError
from cmwnet_jax.runs.stored import CONFIDENCES, PROBABILITIES

# By file and array: numpy kinds and axes of the array. Axes of the same name have the same length in a file.
# Arrays with a question mark are optional.
_LAYOUTS = {
    "weights": {
        "given": ("iu", "n"),
        "true": ("iu", "n"),
        "meta_class": ("iu", "n"),
        "losses": ("f", "n"),
        "weights": ("f", "n"),
        "seen?": ("b", "n"),
        "mean_losses?": ("f", "n"),
        "mean_margins?": ("f", "n"),
        "visits?": ("iu", "n"),
        "centers": ("f", "K"),
        "grid?": ("f", "g"),
        "functions?": ("f", "Kg"),
    },
    "evaluation": {"confusion": ("iu", "CC"), "class_names?": ("U", "C")},
    "predictions": {
        "given_probability": ("f", "n"),
        "other": ("iu", "n"),
        "other_probability": ("f", "n"),
        "class_names": ("U", "C"),
    },
    "pseudo_labels": {
        "given_probability": ("f", "n"),
        "other": ("iu", "n"),
        "other_probability": ("f", "n"),
    },
    "bias": {"transition_matrix?": ("f", "CC")},
    "selective": {
        "coverages_percent": ("f", "k"),
        "accepted": ("iu", "k"),
        "wrong": ("iu", "k"),
        "curve_percent": ("f", "n"),
    },
    "corrected": {
        "images?": ("u", "mhwd"),
        "given": ("iu", "m"),
        "new": ("iu", "m"),
        "true": ("iu", "m"),
        "class_names": ("U", "C"),
        "truth_known": ("b", ""),
        "num_labels": ("iu", ""),
        "num_wrong": ("iu", ""),
        "num_changed": ("iu", ""),
        "num_changed_rightly": ("iu", ""),
    },
}
_REMEDY = "bring back a copy of the file"
_MAY_BE_EMPTY = "m"
# Arrays that hold indices into an axis.
_PLACES = {
    "weights": {"meta_class": "K"},
    "predictions": {"other": "C"},
    "corrected": {"given": "C", "new": "C", "true": "C"},
}


def has_arrays(run: Path, name: str) -> bool:
    """Whether the folder has this .npz, damaged or not; some methods do not write all of them.

    Args:
        run: the folder.
        name: as in `read_arrays`.
    """
    return os.path.lexists(run / f"{name}.npz")


def read_arrays(run: Path, name: str) -> dict[str, np.ndarray]:
    """Reads an .npz of the folder.

    Args:
        run: the folder.
        name: `weights`, `evaluation`, `predictions`, `bias`; for methods that change labels, `corrected` and
            `pseudo_labels`; for data with a calibration split, `selective`.

    Raises:
        UsageError: it is missing or damaged, or its arrays are not those of a run; the message says which.
    """
    path = run / f"{name}.npz"
    problem = f"{path} cannot be used"
    arrays = array_files.read_npz(path, problem, _REMEDY, finite=False, text=True)
    with array_files.reading(path, problem, _REMEDY):
        _check(arrays, name)
    return arrays


def read_confidences(run: Path) -> np.ndarray:
    """Reads confidences.npy, [training split, C] float.

    Args:
        run: the folder.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = run / CONFIDENCES
    problem = f"{path} cannot be used"
    confidences = array_files.read_npy(path, problem, _REMEDY, finite=False)
    if confidences.ndim != 2 or confidences.dtype.kind != "f":
        raise UsageError(f"{problem} (it holds something else than the confidences): {_REMEDY}")
    return confidences


def map_probabilities(run: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Opens probabilities.npy, [N, C] float16, without reading it; None if the run left none.

    Args:
        run: the folder.
        shape: [N, C], as the run's other arrays have it.

    Raises:
        UsageError: it is damaged, or of another shape.
    """
    path = run / PROBABILITIES
    if not os.path.lexists(path):
        return None
    with array_files.reading(path, f"{path} cannot be used", _REMEDY):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape != shape or found.dtype.kind != "f":
            raise ValueError(f"it is {found.dtype} {list(found.shape)}, expected floats {list(shape)}")
    return found


def _check(arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Raises a ValueError if an array is missing or has the wrong dtype, shape or range."""
    sizes: dict[str, int] = {}
    arrays = {**arrays, **_without_gaps(arrays)} if name == "weights" else arrays
    for array, (kinds, axes) in _LAYOUTS[name].items():
        array, optional = array.rstrip("?"), array.endswith("?")
        if array in arrays:
            _check_array(f"its array {array!r}", arrays[array], kinds, axes, sizes)
        elif not optional:
            raise ValueError(f"it has no array {array!r}")
    for array, axis in _PLACES.get(name, {}).items():
        least, places = -1 if array == "true" else 0, arrays[array]  # -1: belongs to no class
        if places.size and not least <= places.min() <= places.max() < sizes[axis]:
            raise ValueError(
                f"its array {array!r} has {places.min()} to {places.max()}, expected less than {sizes[axis]}"
            )


def _without_gaps(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replaces NaN by 0 where it is right: examples not seen or never visited, and heads that no class uses."""
    visits, seen, blank = arrays.get("visits"), arrays.get("seen"), {}
    visited = visits > 0 if visits is not None and visits.dtype.kind in "iu" else None
    checked = {"losses": seen, "weights": seen, "mean_losses": visited, "mean_margins": visited}
    for array, known in checked.items():
        values = arrays.get(array)
        if values is None or known is None or values.shape != known.shape or known.dtype != bool:
            continue
        if values.dtype.kind == "f":
            blank[array] = np.where(np.isnan(values) & ~known, 0, values)
    functions = arrays.get("functions")
    if functions is not None and functions.dtype.kind == "f" and functions.ndim == 2:
        blank["functions"] = np.where(np.isnan(functions).all(axis=1, keepdims=True), 0, functions)
    return blank


def _check_array(what: str, found: np.ndarray, kinds: str, axes: str, sizes: dict[str, int]) -> None:
    """Checks one array against the lengths of axes known so far, and adds its own."""
    if found.dtype.kind not in kinds or found.ndim != len(axes):
        raise ValueError(f"{what} is {found.dtype} {list(found.shape)}, expected [{', '.join(axes)}]")
    for axis, size in zip(axes, found.shape, strict=True):
        if sizes.setdefault(axis, size) != size:
            raise ValueError(f"{what} is {list(found.shape)}, expected {axis} = {sizes[axis]} as in the others")
        if size == 0 and axis not in _MAY_BE_EMPTY:
            raise ValueError(f"{what} is empty")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"{what} has NaN or infinite numbers")
