"""What finished runs left about each training example, as one table."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import hashes_differ, local_path, read_json
from cmwnet_jax.runs import stored
from cmwnet_jax.runs.arrays import has_arrays, read_arrays

Table = dict[str, np.ndarray]
"""Columns by name, all of the same length."""

_AVERAGED = {"loss": "mean_losses", "last_loss": "losses", "margin": "mean_margins", "weight": "weights"}
"""Our column -> the array of weights.npz."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The training examples of one or several runs on the same labels.

    Attributes:
        table: columns [N], in the order of the runs' weights.npz:
            `row` int64, the row of the data set's training split;
            `id` int64 or str, the data set's own name of the example, or its row if it has none;
            `path` str, the example's file; empty if that is not known;
            `given` and `other` int, the given class and the most likely other one;
            `given_probability` and `other_probability` float, their probabilities in the end;
            `loss` and `margin` float, the means over all visits (NaN without a visit);
            `last_loss` float, the loss in the last epoch (NaN if not visited there);
            `meta_class` int; `weight` float, only if the runs learned weights; `true` int, only if the true
            labels are known, -1 for no class.
        class_names: C names.
        runs: the runs' folders.
        from_pseudo_labels: whether the probabilities are those of pseudo-labels, not of the final classifier.
        config: config.json of the first run.
        files: the hash of the data set's files that the first run was trained on; empty if that is not known.
        confusion: [C, C] int, test labels by row and predictions by column, of all runs; None if that is not
            known.
        teacher_share: the share of the test labels that the teacher predicts, which makes the pseudo-labels, on
            average over the last epochs and the runs; None if there is no teacher.
    """

    table: Table
    class_names: tuple[str, ...]
    runs: tuple[Path, ...]
    from_pseudo_labels: bool
    config: Mapping
    files: str = ""
    confusion: np.ndarray | None = None
    teacher_share: float | None = None

    def __len__(self) -> int:
        return len(self.table["given"])


def read_examples(runs: str | os.PathLike | Sequence[str | os.PathLike]) -> Examples:
    """Reads finished runs and averages their columns.

    Args:
        runs: a run's folder, or several of the same method that differ in the seed.

    Raises:
        UsageError: a run is unfinished, damaged or of a version that left less, has candidate sets instead of
            labels, or differs from the first in the data, the given labels or the method.
    """
    paths = _folders(runs)
    read = [_read(path) for path in paths]
    for path, run in zip(paths[1:], read[1:], strict=True):
        _check_alike(paths[0], read[0], path, run)
    first = read[0]
    table = _averaged([run.weights for run in read], [run.beside for run in read])
    if first.facts["truth_known"]:
        table["true"] = first.weights["true"]
    config = stored.read_config(paths[0])
    table |= _names(paths[0], config, table["row"])
    names = tuple(first.class_names.tolist())
    known = [run.confusion for run in read if run.confusion is not None]
    shares = [run.teacher_share for run in read if run.teacher_share is not None]
    tested = (np.sum(known, axis=0) if known else None, float(np.mean(shares)) if shares else None)
    return Examples(table, names, tuple(paths), first.from_pseudo_labels, config, first.facts["files"], *tested)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The arrays of one run: weights.npz, and `BesideGiven` by field."""

    weights: Mapping[str, np.ndarray]
    beside: Mapping[str, np.ndarray]
    class_names: np.ndarray
    from_pseudo_labels: bool
    facts: Mapping
    method: str
    confusion: np.ndarray | None
    teacher_share: float | None


def _folders(runs: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    single = isinstance(runs, str | os.PathLike)
    if not single and (not isinstance(runs, Iterable) or isinstance(runs, bytes)):
        fitted = hasattr(runs, "find_suspects")
        found = f"a {type(runs).__name__}" if fitted else repr(runs)
        remedy = "call its find_suspects()" if fitted else "name it"
        raise UsageError(
            f"run is {found}, expected the folder of a finished one, or a list of such folders: {remedy}"
        )
    paths = [local_path("RUN", run) for run in ([runs] if single else runs)]
    if not paths:
        raise UsageError("got no run, expected the folder of a finished one, or several: name it")
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(paths):
        twice = next(path for path in paths if resolved.count(path.resolve()) > 1)
        raise UsageError(f"RUN is {str(twice)!r} twice, expected different runs: name each once")
    return paths


def _read(path: Path) -> _Run:
    if not path.is_dir() or not stored.holds_run(os.listdir(path)):
        raise UsageError(
            f"RUN is {str(path)!r}, which holds no run: name a folder that cmwnet_jax.train has written"
        )
    result = stored.read_result(path)
    if result is None:
        raise UsageError(f"RUN is {str(path)!r}, which is not finished: train it to the end first")
    facts = _facts(path)
    if not has_arrays(path, "predictions"):
        raise UsageError(
            f"RUN is {str(path)!r}, which left no predictions.npz, as a run of an older version, or of a "
            f"method without given labels: train it again with this version, or another method"
        )
    weights, predictions = read_arrays(path, "weights"), read_arrays(path, "predictions")
    pseudo = has_arrays(path, "pseudo_labels")
    beside = read_arrays(path, "pseudo_labels") if pseudo else predictions
    classes = len(predictions["class_names"])
    _check_weights(path, weights, classes)
    _check_beside(path / "predictions.npz", predictions, len(weights["given"]), classes)
    _check_beside(path / "pseudo_labels.npz", beside, len(weights["given"]), classes)
    method = stored.read_config(path)["method"]
    teacher = result.get(stored.TEACHER_ACCURACY)
    tested = (_confusion(path, classes), None if teacher is None else teacher / 100)
    return _Run(weights, beside, predictions["class_names"], pseudo, facts, method, *tested)


def _confusion(path: Path, classes: int) -> np.ndarray | None:
    """The test labels by prediction; None if the run has left none."""
    if not has_arrays(path, "evaluation"):
        return None
    confusion = read_arrays(path, "evaluation")["confusion"]
    if confusion.shape != (classes, classes) or confusion.min() < 0:
        raise UsageError(
            f"{path / 'evaluation.npz'} is of other classes than the run's {classes}: bring back a copy"
        )
    return confusion if confusion.any() else None


def _check_weights(path: Path, weights: Mapping[str, np.ndarray], classes: int) -> None:
    missing = [name for name in ("mean_losses", "mean_margins", "ids") if name not in weights]
    if missing:
        raise UsageError(
            f"{path / 'weights.npz'} has no {missing[0]}, as those of older versions: train the run again"
        )
    if weights["given"].min() < 0 or weights["given"].max() >= classes:
        raise UsageError(
            f"RUN is {str(path)!r}, where some examples have no given label, expected one of {classes} classes "
            f"for each: audit a run on labelled examples"
        )


def _check_beside(file: Path, values: Mapping[str, np.ndarray], count: int, classes: int) -> None:
    """Checks the fields of `BesideGiven` against the sizes of the run's other arrays."""
    if len(values["other"]) != count:
        raise UsageError(
            f"{file} is of {len(values['other'])} examples, expected {count} as in weights.npz: bring back "
            f"copies of the files of one run"
        )
    if values["other"].max() >= classes or values["other"].min() < 0:
        raise UsageError(f"{file} has other classes than the run's {classes}: bring back a copy")


def _facts(path: Path) -> dict:
    """The fields of bias.json that tell whether runs have the same labels."""
    file = path / stored.BIAS[0]
    try:
        fields = read_json(file)
        facts = {name: fields[name] for name in ("dataset", "dataset_checksum", "name", "seed", "truth_known")}
        facts["files"] = fields.get("files", {}).get("data.name", "")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{file} cannot be used ({first_line(error)}): bring back a copy") from error
    if "candidates" in read_arrays(path, "bias"):
        raise UsageError(
            f"RUN is {str(path)!r}, whose examples have sets of candidate labels, expected one given label "
            f"each: audit a run on single labels"
        )
    return facts


def _check_alike(first_path: Path, first: _Run, path: Path, run: _Run) -> None:
    """Raises a UsageError if runs cannot be averaged."""
    for name, what in (("dataset", "data set"), ("dataset_checksum", "version of the data set")):
        if run.facts[name] != first.facts[name]:
            raise UsageError(
                f"{path} has another {what} ({run.facts['dataset']}) than {first_path} "
                f"({first.facts['dataset']}), expected runs on the same data: audit them apart"
            )
    if hashes_differ(first.facts["files"], run.facts["files"]):
        raise UsageError(
            f"{path} was trained on other files of the data set {run.facts['dataset']} than {first_path}, "
            f"expected runs on the same data: audit them apart"
        )
    same = all(np.array_equal(run.weights[name], first.weights[name]) for name in ("ids", "given"))
    if not same or not np.array_equal(run.class_names, first.class_names):
        raise UsageError(
            f"{path} has other given labels (bias {run.facts['name']!r}, seed {run.facts['seed']}) than "
            f"{first_path} ({first.facts['name']!r}, seed {first.facts['seed']}), expected the same: audit "
            f"them apart, or train all with --config.data.record={first_path}"
        )
    if run.method != first.method or not np.array_equal(run.weights["meta_class"], first.weights["meta_class"]):
        raise UsageError(
            f"{path} is of {run.method} and {first_path} of {first.method}, expected one method with the same "
            f"meta-classes, whose losses and weights can be averaged: audit them apart"
        )


def examples_in_memory(files: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str]) -> Examples:
    """The examples of one run that has written no folder: `runs` and `config` are empty, ids are rows.

    Args:
        files: the arrays that a run leaves in weights.npz, predictions.npz and perhaps pseudo_labels.npz, by
            these names without the suffix.
        class_names: C names.
    """
    weights, pseudo = files["weights"], "pseudo_labels" in files
    table = _averaged([weights], [files["pseudo_labels" if pseudo else "predictions"]])
    table |= {"id": table["row"], "path": np.full(len(table["row"]), "")}
    return Examples(table, tuple(class_names), (), pseudo, {})


def _averaged(weights: Sequence[Mapping[str, np.ndarray]], beside: Sequence[Mapping[str, np.ndarray]]) -> Table:
    """The columns of one or several runs, but for names and truth, from weights.npz and `BesideGiven`."""
    table = {name: weights[0][name] for name in ("given", "meta_class")}
    table["row"] = weights[0]["ids"]
    for name, array in _AVERAGED.items():
        table[name] = _mean([run[array] for run in weights])
    table |= _vote(beside)
    if _is_constant([run["weights"] for run in weights]):
        del table["weight"]
    return table


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over runs of what is not NaN; NaN where all are."""
    known = [~np.isnan(column) for column in values]
    total = sum(np.where(is_known, column, 0) for is_known, column in zip(known, values, strict=True))
    count = np.sum(known, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _is_constant(weights: Sequence[np.ndarray]) -> bool:
    """Whether the weights say nothing: methods without weights report 1 for all."""
    return all(np.nanmin(column) == np.nanmax(column) for column in weights)


def _vote(beside: Sequence[Mapping[str, np.ndarray]]) -> Table:
    """Averages the given class's probability; of the runs' other classes, takes the one with the most votes.

    A vote counts by its probability. With full probabilities of all runs this would be exact, but they may
    be large: a million examples of a thousand classes are 2 GB a run.
    """
    others = np.stack([run["other"] for run in beside])
    chances = np.stack([run["other_probability"] for run in beside])
    votes = np.stack([np.sum(np.where(others == mine, chances, 0), axis=0) for mine in others])
    best = np.argmax(votes, axis=0)[None]
    return {
        "given_probability": np.mean([run["given_probability"] for run in beside], axis=0),
        "other": np.take_along_axis(others, best, axis=0)[0],
        "other_probability": np.take_along_axis(votes, best, axis=0)[0] / len(beside),
    }


def _names(path: Path, config: Mapping, rows: np.ndarray) -> Table:
    """The columns `id` and `path`, from names.json."""
    file, fields = path / stored.NAMES, {}
    if os.path.lexists(file):
        try:
            fields = read_json(file)
            for name, values in fields.items():
                if len(values) != len(rows) or not all(isinstance(value, str) for value in values):
                    raise ValueError(f"its {name!r} is not a list of {len(rows)} strings")
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{file} cannot be used ({first_line(error)}): bring back a copy") from error
    paths = fields.get("path") or _files(config, fields.get("id", ()))
    return {
        "id": np.array(fields["id"]) if "id" in fields else rows,
        "path": np.array(paths) if paths else np.full(len(rows), ""),
    }


def _files(config: Mapping, ids: Sequence[str]) -> list[str]:
    """Paths of the examples' files, where ids are paths in the folder of raw files; else empty."""
    folder = config.get("data", {}).get("raw_dir", "")
    if not (folder and ids and os.path.isfile(os.path.join(os.path.expanduser(folder), ids[0]))):
        return []
    return [os.path.join(folder, name) for name in ids]
