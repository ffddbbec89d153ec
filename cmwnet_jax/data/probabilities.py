"""Class probabilities in files, with a check that their rows and columns belong to the data set."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from cmwnet_jax import array_files
from cmwnet_jax.data.checksums import labels_checksum
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular, replace_file

HINTS = {
    "posterior": "write one with python -m cmwnet_jax.data posterior",
    "confidences": "e.g. confidences.npy in the folder of a finished run with the method proden",
}
"""How to get such a file, by its field of the section `data`."""

_OF_A_RUN = "bias.json"  # the record beside a run's confidences.npy

_TOLERANCE = 1e-3
_CHANCE = 3  # standard deviations of as many tosses of a coin
_HALF = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def save_probabilities(
    path: Path, values: np.ndarray, true_labels: np.ndarray, class_names: Sequence[str]
) -> None:
    """Writes an .npy file, and a .json of the same name that identifies its data set and classes.

    Args:
        path: the .npy file, in a folder that exists.
        values: [training split, C] float.
        true_labels: [training split] int, the data set's own labels.
        class_names: C names, in label order.
    """
    content = io.BytesIO()
    np.save(content, values)
    fields = {
        "checksum": hashlib.sha256(content.getvalue()).hexdigest(),
        "class_names": list(class_names),
        "dataset_checksum": labels_checksum(true_labels),
    }
    replace_file(path, content.getvalue())
    replace_file(_beside(path), json.dumps(fields, indent=2) + "\n")


def load_probabilities(
    field: str,
    path: str,
    shape: tuple[int, int],
    hint: str,
    *,
    true_labels: np.ndarray,
    class_names: Sequence[str],
) -> np.ndarray:
    """Reads class probabilities from an .npy file of any numeric type and byte order.

    Args:
        field: the config field, for the error.
        path: the file.
        shape: (training split, C) of the data set.
        hint: how to get such a file, for the error.
        true_labels: [training split] int, the data set's own labels.
        class_names: C names, in label order.

    Returns:
        [training split, C] with the file's dtype. Half precision becomes float32, and each row is then
        divided by its sum. Rows of zeros stay: they stand for examples that a run has left out.

    Raises:
        UsageError: the file cannot be read, has another shape, lies beside a record of another data set or
            order of classes, or has a row that is neither a distribution nor zeros.
    """
    place, content, values = _read(field, path, hint)
    if values.shape != shape:
        raise UsageError(
            f"{field} is {path!r} with shape {values.shape}, expected {shape} for this data set: take one made "
            f"for it"
        )
    problem = _mismatch(place, content, labels_checksum(true_labels), class_names)
    if problem:
        raise UsageError(f"{field} is {path!r}, {problem}")
    return _distributions(f"{field} is {path!r}", values, hint)


def check_probabilities(field: str, path: str, hint: str) -> tuple[int, int]:
    """Checks what `load_probabilities` does without a data set: that each row is a distribution or zeros.

    Args:
        field, path, hint: as in `load_probabilities`.

    Returns:
        (rows, classes) of the file.

    Raises:
        UsageError: the file cannot be read, is not a table, or has a row that is neither.
    """
    _, _, values = _read(field, path, hint)
    if values.ndim != 2 or 0 in values.shape:
        raise UsageError(
            f"{field} is {path!r} with shape {values.shape}, expected (training examples, classes): {hint}"
        )
    _distributions(f"{field} is {path!r}", values, hint)
    return values.shape


def _read(field: str, path: str, hint: str) -> tuple[Path, bytes, np.ndarray]:
    """The file's place, bytes and array."""
    problem = f"{field} is {path!r}, expected an .npy file of class probabilities, one row per training example"
    with array_files.reading(path, problem, hint) as place:
        content = place.read_bytes()
        return place, content, array_files.npy(io.BytesIO(content), len(content))


def _distributions(what: str, values: np.ndarray, hint: str) -> np.ndarray:
    """Checks that each row is a distribution or zeros; converts half precision to float32."""
    # Sixteen bits store a row's sum only up to their own rounding.
    is_half = values.dtype in _HALF
    tolerance = max(_TOLERANCE, float(ml_dtypes.finfo(values.dtype).eps)) if is_half else _TOLERANCE
    sums = values.sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # NaN fails both comparisons
        good = np.all(values >= 0, axis=1) & ((np.abs(sums - 1) < tolerance) | (sums == 0))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise UsageError(
            f"{what}, where {np.sum(~good)} rows are not distributions, first row {row} (the sum is "
            f"{sums[row]:g}), expected probabilities that sum to one (the softmax, not the logits): {hint}"
        )
    if is_half:
        values = values.astype(np.float32) / np.where(sums == 0, 1, sums)[:, None].astype(np.float32)
    return values


def check_class_order(field: str, path: str, values: np.ndarray, labels: np.ndarray) -> None:
    """Raises a UsageError if the most likely classes match the labels only after permuting the classes.

    This is assumed if there is a cycle of classes in which each is predicted as the next: in most of its
    examples, at least twice as often as itself, and more often than chance explains. A poor classifier confuses
    several classes with one, or two with each other half of the time, but does not swap them.

    Args:
        field: the config field, for the error.
        path: the file.
        values: [N, C] class probabilities.
        labels: [N] int, the labels that the classifier was trained on.
    """
    num_classes = values.shape[1]
    pairs = np.asarray(labels, np.int64) * num_classes + values.argmax(axis=1)
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    best, sizes = counts.argmax(axis=1), counts.sum(axis=1)
    most = counts.max(axis=1)
    is_most = (2 * most > sizes) & (most >= 2 * counts.diagonal())
    following = np.append(np.where(is_most, best, num_classes), num_classes)  # C stands for no successor
    own = np.arange(num_classes)
    at, in_circle = following[own], np.zeros(num_classes, bool)
    swapped = (at != own) & (at < num_classes)
    for _ in range(num_classes):
        at = following[at]
        in_circle |= swapped & (at == own)
    surplus = (most - counts.diagonal())[in_circle].sum()
    if surplus > _CHANCE * np.sqrt(sizes[in_circle].sum()):
        first = int(np.argmax(in_circle))
        raise UsageError(
            f"{field} is {path!r}, whose columns agree with the labels in another order of the classes alone, "
            f"e.g. column {best[first]} with class {first} ({counts[first, best[first]]} of {sizes[first]} "
            f"examples): make it anew with this data set, in its order"
        )


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _mismatch(place: Path, content: bytes, checksum: str, class_names: Sequence[str]) -> str:
    """Why the record beside a file forbids its use; empty if it does not, or if there is no record."""
    own = _beside(place).exists()
    record = _beside(place) if own else place.with_name(_OF_A_RUN)
    try:
        check_regular(record)
        fields = json.loads(record.read_text(encoding="utf-8"))
        stated, names = fields["dataset_checksum"], list(fields.get("class_names", class_names))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"beside which {record.name} cannot be read ({first_line(error)}): remove it, or make both anew"
    if own and fields.get("checksum") != hashlib.sha256(content).hexdigest():
        return f"beside which {record.name} is of another file: remove it, or make both anew"
    if names != list(class_names) and sorted(names) == sorted(class_names):
        return (
            f"made with the classes in the order {', '.join(names[:4])}, ...: make it anew with this data set"
        )
    if stated == checksum:  # the same rows, with class names spelt differently
        return ""
    return "made with other training labels, or in another order: make it anew with this data set"
