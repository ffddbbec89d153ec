"""Saved biases: `bias.json` for people, `bias.npz` with the arrays; a run can start from a saved bias."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from cmwnet_jax import array_files
from cmwnet_jax.data.bias import BiasedLabels
from cmwnet_jax.data.checksums import labels_checksum
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import hashes_differ, read_json, replace_file

_FORMAT = 1
_JSON, _NPZ = "bias.json", "bias.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A bias that has been applied, with its origin.

    Attributes:
        labels: the biased labels.
        name: the bias's name, as `bias.apply` takes it.
        seed: the seed it was applied with.
        dataset: the data set's name.
        held_out: [M] int64, ids of the clean meta set that was held out; None if there is none.
        calibration: [m] int64, ids of the examples held out for the calibration of thresholds; or None.
        files: what else the labels and inputs come from, by name: a hash of the files of each data set (see
            `Source.files`), under its config field, and a checksum of the test labels.
    """

    labels: BiasedLabels
    name: str
    seed: int
    dataset: str
    held_out: np.ndarray | None = None
    calibration: np.ndarray | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def save_record(folder: str | os.PathLike, record: Record, true_labels: np.ndarray) -> None:
    """Writes `bias.json` and `bias.npz`; each file is written whole or not at all.

    Args:
        folder: the folder, created if it is missing.
        record: the bias.
        true_labels: [training split] int, the data set's own labels.

    Raises:
        UsageError: the record's labels are not this data set's, or the folder cannot be written.
    """
    _check_dataset(record, true_labels, "the record")
    folder = Path(folder).expanduser()
    contents = io.BytesIO()
    np.savez_compressed(contents, **_arrays(record))
    fields = _fields(record, true_labels)
    fields["checksum"] = _checksum(contents.getvalue(), fields)
    text = json.dumps(fields, indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The JSON comes last: it holds the arrays' checksum, and an old one must not match new arrays.
        replace_file(folder / _NPZ, contents.getvalue())
        replace_file(folder / _JSON, text.encode())
    except OSError as error:
        raise UsageError(
            f"the record's folder is {str(folder)!r}, which cannot be written ({error}): choose another"
        ) from error


def load_record(folder: str | os.PathLike, *, dataset: str, true_labels: np.ndarray) -> Record:
    """Reads the record in a folder, exactly as it was saved.

    Args:
        folder: holds `bias.json` and `bias.npz`, e.g. a run's folder.
        dataset: name of the data set to use the record with.
        true_labels: [training split] int, that data set's own labels.

    Raises:
        UsageError: the files are missing, damaged or edited, or belong to another data set.
    """
    folder = Path(folder).expanduser()
    with _reading(folder) as said:
        fields, arrays = _read(folder, *said)
        _check_names(folder, fields, dataset, true_labels)
        record = _record(fields, arrays)
        _check_dataset(record, true_labels, f"the record in {str(folder)!r}")
    return record


def check_record(folder: str | os.PathLike) -> dict:
    """Checks what `load_record` does without the data set: that both files are there and undamaged.

    Args:
        folder: as in `load_record`.

    Returns:
        The contents of `bias.json`, e.g. `name`, `seed`, `dataset` and `num_examples`.

    Raises:
        UsageError: the files are missing, damaged or edited.
    """
    folder = Path(folder).expanduser()
    with _reading(folder) as said:
        fields, arrays = _read(folder, *said)
        _record(fields, arrays)
    return fields


_ROWS = {
    "ids": "its examples",
    "given": "the given labels",
    "true": "the true labels",
    "candidates": "the candidate labels",
    "foreign": "the foreign images",
    "held_out": "the examples held out",
    "calibration": "the examples held out for calibration",
}
"""The arrays whose rows a run's other files refer to, in words."""


def check_unchanged(folder: str | os.PathLike, record: Record, true_labels: np.ndarray) -> None:
    """Checks that the data of a run that goes on are those that it began with, as its folder's record has them.

    Args:
        folder: the run's folder. Nothing is checked if it has no record.
        record: the bias now.
        true_labels: [training split] int, the data set's own labels now.

    Raises:
        UsageError: they differ, or the folder's record is damaged or edited.
    """
    folder = Path(folder).expanduser()
    if not any(os.path.lexists(folder / name) for name in (_JSON, _NPZ)):
        return
    try:
        with _reading(folder) as said:
            fields, arrays = _read(folder, *said)
            before = _record(fields, arrays)
    except UsageError as error:
        raise UsageError(
            f"{first_line(error)}; to go on without comparing the run's data with what it began with, remove "
            f"{_JSON} and {_NPZ}"
        ) from error
    now = _arrays(record)
    changed = [words for name, words in _ROWS.items() if not _equal(arrays.get(name), now.get(name))]
    if fields["dataset_checksum"] != labels_checksum(true_labels):
        changed.insert(0, "the data set's own labels")
    names = [name for name, hash in record.files.items() if hashes_differ(before.files.get(name), hash)]
    changed += [f"the files of {name}" if name.startswith("data.") else name for name in names]
    if changed:
        raise UsageError(
            f"workdir is {str(folder)!r}, whose run was trained on other data than its config gives now "
            f"({', '.join(changed)} differ): bring back the files as they were, or choose another folder"
        )


def _equal(before: np.ndarray | None, now: np.ndarray | None) -> bool:
    """Whether both are None, or arrays of the same shape and values."""
    return before is now if before is None or now is None else np.array_equal(before, now)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[tuple[str, str]]:
    """Explains what is wrong with a folder's record, missing fields and wrong types too."""
    for name in (_JSON, _NPZ):
        if folder.is_dir() and not os.path.lexists(folder / name):
            raise UsageError(
                f"the record in {str(folder)!r} lacks {name}: expected {_JSON} and {_NPZ} in one folder"
            )
    said = f"the record in {str(folder)!r} cannot be read", "make the bias anew"
    with array_files.reading(folder / _JSON, *said):
        yield said


def _check_names(folder: Path, fields: dict, dataset: str, true_labels: np.ndarray) -> None:
    """Checks that a record is of this data set, before its labels are read."""
    if fields["dataset"] != dataset:
        raise UsageError(
            f"the record in {str(folder)!r} is of the data set {fields['dataset']!r}, expected {dataset!r}: "
            f"use a record of this data set, or set data.name"
        )
    if fields["dataset_checksum"] != labels_checksum(true_labels):
        raise UsageError(
            f"the record in {str(folder)!r} is of a {dataset} with other labels or another order "
            f"({fields['dataset_size']} examples, here {len(true_labels)}): prepare the data set as it was, or "
            f"make the bias anew"
        )


def _fields(record: Record, true_labels: np.ndarray) -> dict:
    """Contents of bias.json, without the checksum."""
    labels = record.labels
    return {
        "format": _FORMAT,
        "dataset": record.dataset,
        "name": record.name,
        "seed": int(record.seed),
        "num_examples": len(labels.ids),
        "num_classes": int(labels.num_classes),
        "wrong_rate": labels.wrong_rate if labels.truth_known else None,
        "truth_known": labels.truth_known,
        "num_foreign": int(labels.is_foreign.sum()),
        "foreign_dataset": labels.foreign_dataset,
        "class_counts": labels.class_counts.tolist(),
        # Equal biases have equal values here, whatever wrote them; `checksum` is of the two files.
        "labels_checksum": labels_checksum(labels.ids, labels.given, labels.true),
        "dataset_size": len(true_labels),
        "dataset_checksum": labels_checksum(true_labels),
        "files": dict(record.files),
    }


def _arrays(record: Record) -> dict[str, np.ndarray]:
    """Contents of bias.npz; optional arrays are left out if they are None."""
    labels = record.labels
    arrays = {
        "ids": labels.ids,
        "given": labels.given,
        "true": labels.true,
        "transition_matrix": labels.transition_matrix,
    }
    optional = {
        "foreign": labels.foreign,
        "candidates": labels.candidates,
        "held_out": record.held_out,
        "calibration": record.calibration,
    }
    return arrays | {name: array for name, array in optional.items() if array is not None}


def _record(fields: dict, arrays: dict[str, np.ndarray]) -> Record:
    """The record with these `_fields` and `_arrays`."""
    labels = BiasedLabels(
        ids=arrays["ids"],
        given=arrays["given"],
        true=arrays["true"],
        num_classes=fields["num_classes"],
        foreign=arrays.get("foreign"),
        foreign_dataset=fields["foreign_dataset"],
        truth_known=fields["truth_known"],
        candidates=arrays.get("candidates"),
    )
    return Record(
        labels=labels,
        name=fields["name"],
        seed=fields["seed"],
        dataset=fields["dataset"],
        held_out=arrays.get("held_out"),
        calibration=arrays.get("calibration"),
        files=fields.get("files", {}),  # records of earlier versions lack it
    )


def _read(folder: Path, *said: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads both files; the arrays are parsed only after the checksum has been verified."""
    what = f"the record in {str(folder)!r}"
    fields = read_json(folder / _JSON)
    with array_files.reading(folder / _NPZ, *said) as path:
        contents = path.read_bytes()
    if fields.get("format") != _FORMAT:
        raise UsageError(f"{what} has format {fields.get('format')!r}, expected {_FORMAT}: make the bias anew")
    if fields.pop("checksum", None) != _checksum(contents, fields):
        raise UsageError(
            f"{what} does not match its checksum: {_JSON} or {_NPZ} was damaged or edited, or they are of "
            f"two records; make the bias anew"
        )
    with array_files.reading(folder / _NPZ, *said):
        return fields, array_files.npz(io.BytesIO(contents), len(contents))


def _check_dataset(record: Record, true_labels: np.ndarray, what: str) -> None:
    """Checks that the true labels are the data set's, except for foreign images."""
    labels = record.labels
    own = ~labels.is_foreign
    inside = len(labels.ids) == 0 or (labels.ids.min() >= 0 and labels.ids.max() < len(true_labels))
    if not inside or not np.array_equal(np.asarray(true_labels)[labels.ids[own]], labels.true[own]):
        raise UsageError(
            f"{what} has true labels that are not those of {record.dataset}'s {len(true_labels)} training "
            f"examples: pass the labels of the data set that the bias was made on"
        )


def _checksum(contents: bytes, fields: dict) -> str:
    """Checksum of all contents of the two files."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode() + contents).hexdigest()
