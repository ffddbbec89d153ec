"""Reads the files of a run's folder: what they are called, and whether they hold what a run has written.

Whatever has become of a file in the meantime, the error is one sentence about it, and nothing is changed.
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
ARRAYS = ("weights", "evaluation", "corrected")
"""What the last epoch leaves, each in an .npz."""

CELLS = "cells.json"
"""Which cells a sweep's config file has; in the folder above the runs."""

ACCURACY = "test_accuracy_percent_last10"
TEACHER_ACCURACY = "teacher_test_accuracy_percent_last10"
WEIGHT_AUC = "weight_auc_last10"
AVERAGED, IN_WARMUP = "last_epochs_averaged", "last_epochs_are_warmup"
"""Of how many epochs these are means, and whether there were none but the warm-up's; in result.json."""
METHOD_PLACE = "method_place"
"""Where the method stands among all, in the order in which tables show them; in result.json."""
LAST_EPOCHS = 10
"""How many that are, where a run has as many after its warm-up."""

_FILES = (
    CONFIG,
    METRICS,
    RESULT,
    LOCK,
    *BIAS,
    INITIAL_WEIGHT_NET,
    CONFIDENCES,
    *(f"{name}.npz" for name in ARRAYS),
)
FOLDERS = (CHECKPOINTS, DAMAGED, TENSORBOARD)
"""A run's folders inside of its own."""

_SHOWN = 60  # characters of a wrong value


def holds_run(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a run's, be it spoilt.

    Args:
        names: of its files and folders.
    """
    return CONFIG in names or METRICS in names


def check_kinds(run: Path) -> None:
    """Makes sure that what has the name of one of a run's files is a file, and of its folders a folder.

    Args:
        run: the folder; it may be missing.

    Raises:
        UsageError: names the first that is not.
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
    """Whether a run has ended: result.json, which is written last, is there, be it spoilt."""
    return os.path.lexists(run / RESULT)


def read_config(run: Path) -> dict:
    """What config.json holds.

    Args:
        run: the folder.

    Raises:
        UsageError: it cannot be read, or is no run's config.
    """
    path = run / CONFIG
    with _explained(path, "bring back a copy of the file, or choose another folder"):
        fields = read_json(path)  # which writes infinities as Python does
        _check_field(fields, "method", "a method's name", _is_name)
        _check_field(fields, "seed", "a whole number", _is_whole)
        _check_field(
            fields, "num_epochs", "a whole number from 1", lambda value: _is_whole(value) and value > 0
        )
        return fields


def read_result(run: Path, numbers: Collection[str] = ()) -> dict | None:
    """What result.json holds; None for an unfinished run.

    Args:
        run: the folder.
        numbers: fields that must be numbers.

    Raises:
        UsageError: it cannot be read, or is no run's result.
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
        if fields.get(AVERAGED) is not None:
            _check_field(fields, AVERAGED, "a whole number from 1", lambda n: _is_whole(n) and n > 0)
        return fields


def few_epochs(result: Mapping) -> str:
    """Of how many epochs a run's scores are the mean, where these are fewer than 10 or of the warm-up.

    Args:
        result: what its result.json holds; of an older version, which counted the warm-up and did not say how
            many epochs there were, nothing is known.
    """
    count = result.get(AVERAGED) or LAST_EPOCHS
    if result.get(IN_WARMUP):
        return f"{count} warm-up epoch{'s' * (count > 1)}"
    return f"last {count} epoch{'s' * (count > 1)}" if count < LAST_EPOCHS else ""


def read_metrics(
    run: Path, fields: Collection[str] = ("test_accuracy_percent",), first_epoch: int | None = 0
) -> list[dict]:
    """The metrics of the epochs so far, one after the other; none where there is no metrics.jsonl.

    What stands behind the last end of a line is what a killed run was writing: it counts if it is whole.

    Args:
        run: the folder.
        fields: that each epoch must have.
        first_epoch: the first line's; None where it may be any, as in the folders of a run's other processes.

    Raises:
        UsageError: the file cannot be read, or one of its lines is not the next epoch's; says which.
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
    """Whether this, behind the last end of a line, is nothing or what a killed run has begun to write."""
    if not tail.strip(b"\0 "):  # a disk may keep a file's length, and not what was written last
        return True
    with contextlib.suppress(ValueError):
        parse_json(tail)
        return False
    return tail.startswith(b"{")


def _metrics(line: bytes, fields: Collection[str], before: list[dict], first_epoch: int | None) -> dict:
    """One line's metrics, that follow the ones before."""
    metrics = parse_json(line, finite=True)
    _check_field(metrics, "epoch", "a whole number from 0", lambda value: _is_whole(value) and value >= 0)
    expected = before[-1]["epoch"] + 1 if before else first_epoch
    if expected is not None and metrics["epoch"] != expected:
        raise ValueError(f"it is of epoch {metrics['epoch']}, expected {expected}")
    for name in {**dict.fromkeys(fields), **metrics}:
        _check_field(metrics, name, "a number, null or a list of them", _is_metric)
    return metrics


def read_cells(folder: Path) -> list[str]:
    """The cells that the sweeps into a folder know; none where there is no cells.json.

    Args:
        folder: of sweeps, or another.

    Raises:
        UsageError: it cannot be read.
    """
    path = folder / CELLS
    if not os.path.lexists(path):
        return []
    with _explained(path, "remove it, the next sweep writes it anew"):
        cells = read_json(path, list)
        if not all(isinstance(cell, str) for cell in cells):
            raise ValueError("it holds cells that are no strings")
        return cells


@contextlib.contextmanager
def _explained(path: Path, advice: str) -> Iterator[None]:
    """Turns what goes wrong with a file into a sentence about it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be used ({first_line(error)}): {advice}") from error


def _check_field(fields: dict, name: str, expected: str, is_good: Callable[[Any], bool]) -> None:
    if name not in fields:
        raise ValueError(f"it has no {name!r}, expected {expected}")
    if not is_good(fields[name]):
        raise ValueError(f"its {name!r} is {shown(fields[name])}, expected {expected}")


def shown(value: Any) -> str:
    """A value as a message shows it: its beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_metric(value: Any) -> bool:
    return all(entry is None or _is_number(entry) for entry in (value if isinstance(value, list) else [value]))


def _is_name(value: Any) -> bool:
    """It becomes a row of tables and a part of files' names."""
    return isinstance(value, str) and value != "" and value.isprintable() and "/" not in value


def as_json(config: ConfigDict) -> str:
    """The config as config.json has it, which is what a restarted run is compared with.

    Args:
        config: any.
    """
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2) + "\n"
