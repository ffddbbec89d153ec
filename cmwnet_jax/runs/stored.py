"""Files of a run's folder: their names, and reading them with checks.

If a file is damaged, the error is one sentence about it, and nothing is changed.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular, parse_json, read_json

CONFIG, METRICS, RESULT, LOCK = "config.json", "metrics.jsonl", "result.json", ".lock"
BIAS = ("bias.json", "bias.npz")
CHECKPOINTS, DAMAGED, TENSORBOARD = "checkpoints", "damaged_checkpoints", "tensorboard"
INITIAL_WEIGHT_NET, CONFIDENCES = "initial_weight_net.safetensors", "confidences.npy"
PROBABILITIES, NAMES = "probabilities.npy", "names.json"
"""Class probabilities of the training examples, and the data set's own names for them, for the audit."""
ARRAYS = ("weights", "evaluation", "corrected", "predictions", "pseudo_labels", "selective")
"""Results of the last epoch, each in an .npz."""

CELLS = "cells.json"
"""File with the cells of the config files of sweeps, in the folder above the runs."""

ACCURACY = "test_accuracy_percent_last10"
TEACHER_ACCURACY = "teacher_test_accuracy_percent_last10"
WEIGHT_AUC = "weight_auc_last10"
AURC = "test_aurc_percent_last"
SHOTS = {
    name: f"test_{name}_shot_accuracy_percent_last"
    for name in ("many", "medium", "few")  # training examples of a class, see `train.scores.shot_groups`
}
AVERAGED, IN_WARMUP = "last_epochs_averaged", "last_epochs_are_warmup"
"""Number of epochs that the means are over, and whether all were warm-up; fields of result.json."""
ALSO_TEST = "also_test"
"""Name of the second test split, if there is one; a field of result.json."""
METHOD_PLACE = "method_place"
"""Position of the method in the order that tables use; a field of result.json."""
LAST_EPOCHS = 10
"""Number of epochs in these means, if a run has that many after its warm-up."""

_FILES = (
    CONFIG,
    METRICS,
    RESULT,
    LOCK,
    *BIAS,
    INITIAL_WEIGHT_NET,
    CONFIDENCES,
    PROBABILITIES,
    NAMES,
    *(f"{name}.npz" for name in ARRAYS),
)
FOLDERS = (CHECKPOINTS, DAMAGED, TENSORBOARD)
"""Subfolders of a run's folder."""

_SHOWN = 60  # characters shown of a wrong value


def holds_run(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a run's folder, damaged or not.

    Args:
        names: names of its files and subfolders.
    """
    return CONFIG in names or METRICS in names


def check_kinds(run: Path) -> None:
    """Checks that a run's files are regular files, and its subfolders folders.

    Args:
        run: the folder; it may be missing.

    Raises:
        UsageError: names the first one of another kind.
    """
    _check_folder(run, "choose another")
    for name in _FILES:
        if os.path.lexists(run / name):
            with _explained(run / name, "remove it, or bring back a copy of the file"):
                check_regular(run / name)
    for name in FOLDERS:
        _check_folder(run / name, "remove it, or bring the folder back")


def _check_folder(path: Path, advice: str) -> None:
    with _explained(path, advice):
        if os.path.lexists(path) and not path.is_dir():
            raise ValueError(f"it is {'a file' if path.is_file() else 'no folder'}, expected a folder")


def is_finished(run: Path) -> bool:
    """Whether a run has finished: whether result.json, which is written last, exists, damaged or not."""
    return os.path.lexists(run / RESULT)


def read_config(run: Path) -> dict:
    """Reads config.json.

    Args:
        run: the folder.

    Raises:
        UsageError: it cannot be read, or is not the config of a run.
    """
    path = run / CONFIG
    with _explained(path, "bring back a copy of the file, or choose another folder"):
        fields = read_json(path)  # may hold infinities, written in Python's way
        _check_field(fields, "method", "a method's name", _is_name)
        _check_field(fields, "seed", "a whole number", _is_whole)
        _check_field(
            fields, "num_epochs", "a whole number from 1", lambda value: _is_whole(value) and value > 0
        )
        return fields


def read_result(run: Path, numbers: Collection[str] = ()) -> dict | None:
    """Reads result.json; None for an unfinished run.

    Args:
        run: the folder.
        numbers: fields that must be numbers.

    Raises:
        UsageError: it cannot be read, or is not the result of a run.
    """
    path = run / RESULT
    if not is_finished(run):
        return None
    with _explained(path, "bring back a copy, or remove it: training goes on, and writes it anew"):
        fields = read_json(path, finite=True)
        for name in numbers:
            _check_field(fields, name, "a number", _is_number)
        for name in (ACCURACY, TEACHER_ACCURACY, WEIGHT_AUC):
            if fields.get(name) is not None:
                _check_field(fields, name, "a number", _is_number)
        for name in (name for split in also_scores(fields) for name in (split, f"teacher_{split}")):
            if fields.get(name) is not None:
                _check_field(fields, name, "a number", _is_number)
        if fields.get(AVERAGED) is not None:
            _check_field(fields, AVERAGED, "a whole number from 1", lambda n: _is_whole(n) and n > 0)
        return fields


def few_epochs(result: Mapping) -> str:
    """A note on the epochs that scores are averaged over, if there are fewer than 10 or all are warm-up.

    Args:
        result: contents of result.json. Older versions included the warm-up and did not store the number of
            epochs; for them the note is empty.
    """
    count = result.get(AVERAGED) or LAST_EPOCHS
    if result.get(IN_WARMUP):
        return f"{count} warm-up epoch{'s' * (count > 1)}"
    return f"last {count} epoch{'s' * (count > 1)}" if count < LAST_EPOCHS else ""


def also_scores(result: Mapping) -> tuple[str, ...]:
    """The fields of result.json that a second test split adds to the report, without `teacher_`.

    Args:
        result: contents of result.json.

    Returns:
        Its accuracy, and with more than 10 classes the top-5 accuracies of both splits; empty without one.
    """
    name = result.get(ALSO_TEST)
    fields = (f"{name}_accuracy_percent_last10", "test_top5_percent_last10", f"{name}_top5_percent_last10")
    return tuple(field for field in fields if field in result) if name else ()


def read_metrics(
    run: Path, fields: Collection[str] = ("test_accuracy_percent",), first_epoch: int | None = 0
) -> list[dict]:
    """Reads the metrics of all epochs in order; an empty list if there is no metrics.jsonl.

    Text after the last end of a line comes from a killed run; it counts if it is a complete line.

    Args:
        run: the folder.
        fields: fields that each epoch must have.
        first_epoch: epoch of the first line; None allows any, as in the folders of a run's other processes.

    Raises:
        UsageError: the file cannot be read, or a line is not that of the next epoch; the message says which.
    """
    path, epochs = run / METRICS, []
    if not os.path.lexists(path):
        return []
    with _explained(path, "bring back a copy of the file, or choose another folder"):
        check_regular(path)
        *lines, last = path.read_bytes().split(b"\n")
        if not _is_cut(last):
            lines.append(last)
        for number, line in enumerate(lines, 1):
            try:
                epochs.append(_metrics(line, fields, epochs, first_epoch))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        return epochs


def _is_cut(tail: bytes) -> bool:
    """Whether the text after the last end of a line is empty or an incomplete line of a killed run."""
    if not tail.strip(b"\0 "):  # a disk may keep the length of a file but lose its last contents
        return True
    with contextlib.suppress(ValueError):
        parse_json(tail)
        return False
    return tail.startswith(b"{")


def _metrics(line: bytes, fields: Collection[str], before: list[dict], first_epoch: int | None) -> dict:
    """Parses one line of metrics, which must be of the epoch after the ones before."""
    metrics = parse_json(line, finite=True)
    _check_field(metrics, "epoch", "a whole number from 0", lambda value: _is_whole(value) and value >= 0)
    expected = before[-1]["epoch"] + 1 if before else first_epoch
    if expected is not None and metrics["epoch"] != expected:
        raise ValueError(f"it is of epoch {metrics['epoch']}, expected {expected}")
    for name in {**dict.fromkeys(fields), **metrics}:
        _check_field(metrics, name, "a number, null or a list of them", _is_metric)
    return metrics


def read_cells(folder: Path) -> dict[str, list[str]]:
    """Reads the cells of the sweeps in a folder.

    Args:
        folder: a folder of sweeps, or any other.

    Returns:
        Name of the config file without `.py` -> its cells; the name is empty for the list that older versions
        wrote. Empty if there is no cells.json.

    Raises:
        UsageError: the file cannot be read.
    """
    path = folder / CELLS
    if not os.path.lexists(path):
        return {}
    with _explained(path, "remove it, the next sweep writes it anew"):
        found = read_json(path, object)
        by_file = {"": found} if isinstance(found, list) else found
        lists = list(by_file.values()) if isinstance(by_file, dict) else [None]
        if not all(isinstance(cells, list) and all(isinstance(cell, str) for cell in cells) for cells in lists):
            raise ValueError("its cells are no strings, expected lists of strings by config file")
        return by_file


@contextlib.contextmanager
def _explained(path: Path, advice: str) -> Iterator[None]:
    """Context manager that turns an error about a file into one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be used ({first_line(error)}): {advice}") from error


def _check_field(fields: dict, name: str, expected: str, is_good: Callable[[Any], bool]) -> None:
    if name not in fields:
        raise ValueError(f"it has no {name!r}, expected {expected}")
    if not is_good(fields[name]):
        raise ValueError(f"its {name!r} is {shown(fields[name])}, expected {expected}")


def flat(fields: Mapping, prefix: str = "") -> dict[str, Any]:
    """The fields of a config.json by their whole names, e.g. `data.name`.

    Args:
        fields: its contents, or those of one of its sections.
        prefix: what stands before their names.
    """
    found = {}
    for name, value in fields.items():
        is_section = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if is_section else {prefix + name: value}
    return found


def shown(value: Any) -> str:
    """A value for a message; shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_metric(value: Any) -> bool:
    return all(entry is None or _is_number(entry) for entry in (value if isinstance(value, list) else [value]))


def _is_name(value: Any) -> bool:
    """Whether a value is a valid name; it becomes a table row and a part of file names."""
    return isinstance(value, str) and value != "" and value.isprintable() and "/" not in value


def as_json(config: ConfigDict) -> str:
    """The config as text, as in config.json; a resumed run is compared with it.

    Args:
        config: any config.
    """
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2) + "\n"
