"""Finds run folders, finished or not, and assigns each to a cell of a table."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.runs import stored
from cmwnet_jax.runs.arrays import has_arrays, read_arrays

_SEED = re.compile(r"seed(\d+)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A run's folder.

    Attributes:
        path: the folder.
        column: parts of the table's column, e.g. `("fashion_mnist", "asymmetric_60")`.
        row: name of the table's row, usually the method.
        seed: the run's seed, from its config.
        folder: the folder in which it was found, a sweep's or any other.
        cells: the cells of the sweeps in that folder, by config file, as `stored.read_cells` gives them.
    """

    path: Path
    column: tuple[str, ...]
    row: str
    seed: int
    folder: Path = Path()
    cells: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def config(self) -> dict:
        """Contents of config.json."""
        return stored.read_config(self.path)

    @property
    def column_is_dataset(self) -> bool:
        """Whether the run is in FOLDER/METHOD/seedN, so that its data set names the column."""
        return bool(_SEED.match(self.path.name)) and self.path.parent.parent == self.folder

    def places(self) -> set[tuple[tuple[str, ...], str]]:
        """(column, row) of each cell of the sweeps in the run's folder, as far as its own columns tell."""
        split = [cell.replace("/", ",").split(",") for cells in self.cells.values() for cell in cells]
        own = {(self.column, row) for *column, row in split if not column and self.column_is_dataset}
        return own | {(tuple(column), row) for *column, row in split if column}

    @functools.cached_property
    def config_file(self) -> str:
        """Name of the config file whose sweep lists the run's cell; empty if that is not known of one."""
        if not self.cells or not _SEED.match(self.path.name):
            return ""
        cell = ",".join(self.path.parent.relative_to(self.folder).parts)
        files = [file for file, cells in self.cells.items() if cell in (c.replace("/", ",") for c in cells)]
        return files[0] if len(files) == 1 else ""

    @functools.cached_property
    def result(self) -> dict | None:
        """Contents of result.json, including the test accuracy; None for an unfinished run."""
        return stored.read_result(self.path, numbers=(stored.ACCURACY,))

    @functools.cached_property
    def history(self) -> list[dict]:
        """Metrics of all epochs so far."""
        return stored.read_metrics(self.path)

    @functools.cached_property
    def num_epochs(self) -> int:
        """Number of epochs of the whole run, from its config."""
        return self.config["num_epochs"]

    @functools.cached_property
    def dataset(self) -> str:
        """Name of the run's data set, from its config; empty if that is older than the field."""
        return _of_data(self.config, "name")

    def check(self) -> None:
        """Reads the run's files.

        Raises:
            UsageError: a file is not as a run writes it; the message says which file and what is wrong.
        """
        done, history = self.result is not None, self.history
        if len(history) > self.num_epochs or (done and len(history) < self.num_epochs):
            raise UsageError(
                f"{self.path / stored.METRICS} has {len(history)} epochs, expected {'' if done else 'at most '}"
                f"{self.num_epochs}, as config.json says: bring back a copy of the file"
            )

    def check_arrays(self, like: "Found") -> None:
        """As `check`, for the arrays that the report draws of a finished run.

        Args:
            like: a run in the same figure, with which the numbers of classes and meta-classes must agree.
        """
        for name in ("weights", "evaluation", "bias", *filter(self.has, ("corrected", "selective"))):
            self.arrays(name)
        for name, array, what in (
            ("weights", "centers", "meta-classes"),
            ("evaluation", "confusion", "classes"),
        ):
            own, other = (len(run.arrays(name)[array]) for run in (self, like))
            if own != other:
                raise UsageError(
                    f"{self.path / name}.npz is of {own} {what}, expected {other} as {like.path} has: report "
                    f"them apart"
                )

    def has(self, name: str) -> bool:
        """Whether there is an .npz for `arrays`; some methods and older runs lack it.

        Args:
            name: as in `arrays`.
        """
        return has_arrays(self.path, name)

    def class_names(self) -> list[str]:
        """C names of the classes; their numbers, where the run does not know any."""
        evaluation = self.arrays("evaluation")
        for name in ("evaluation", "corrected", "predictions"):
            if self.has(name) and "class_names" in (arrays := self.arrays(name)):
                return arrays["class_names"].tolist()
        return [str(c) for c in range(len(evaluation["confusion"]))]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Reads an .npz of the folder.

        Args:
            name: `weights`, `evaluation`, `bias`, `corrected` or `selective`, see `read_arrays`.

        Raises:
            UsageError: it cannot be read; the message says why.
        """
        return read_arrays(self.path, name)


OnProblem = Callable[[UsageError], None]
"""Called with the reason for each run or file that is left out."""


def _fail(error: UsageError) -> None:
    raise error


def find_runs(folders: Iterable[str | Path], on_problem: OnProblem = _fail) -> list[Found]:
    """Finds all runs in these folders, at any depth.

    A run in FOLDER/A/B/METHOD/seedN, where a sweep puts it, has the column (A, B) and the row METHOD; in
    FOLDER/METHOD/seedN, its data set is the column, with the bias if there are runs of several. For a run in a
    folder of another name, the row is the method in its config, and the column comes from the folders above.

    Args:
        folders: runs, or folders that contain runs.
        on_problem: called with the error for each run or list of cells that cannot be read and each folder that
            cannot be searched, which is then left out; by default, the error is raised.

    Raises:
        UsageError: there is no run, or two runs have the same cell and seed.
    """
    found, problems = [], []
    for folder in (Path(folder).expanduser() for folder in folders):
        cells = _cells(folder, problems)
        for path in _run_folders(folder, problems):
            try:
                run = _found(folder, path, cells)
                run.check()
                found.append(run)
            except UsageError as error:
                problems.append(error)
    runs = {}
    for run in _with_biases(found):
        before = runs.setdefault((run.column, run.row, run.seed), run)
        if before.path.resolve() != run.path.resolve():
            raise _same_place(before, run)
    if not found and not problems:
        raise UsageError(
            f"{', '.join(map(str, folders))} holds no run: name folders that cmwnet_jax.train or "
            f"cmwnet_jax.sweep has written"
        )
    for problem in problems:
        on_problem(problem)
    return list(runs.values())


def _run_folders(folder: Path, problems: list[UsageError]) -> Iterator[Path]:
    """Run folders in a folder (including itself), by name; does not search inside of a run's folder."""

    def skip(error: OSError) -> None:
        problems.append(
            UsageError(f"{error.filename} cannot be searched ({first_line(error)}): check the path")
        )

    for path, inside, files in os.walk(folder, onerror=skip):
        inside.sort()
        if stored.holds_run([*inside, *files]):
            inside[:] = [name for name in inside if name not in stored.FOLDERS]
            yield Path(path)


def _cells(folder: Path, problems: list[UsageError]) -> dict[str, list[str]]:
    """The cells of the sweeps in a folder, by config file; empty if they are not known."""
    try:
        return stored.read_cells(folder)
    except UsageError as error:
        problems.append(error)
        return {}


def _found(folder: Path, path: Path, cells: Mapping[str, Sequence[str]]) -> Found:
    """The run in this folder."""
    parts, named = path.relative_to(folder).parts, _SEED.match(path.name)
    fields = stored.read_config(path)
    if named and len(parts) > 2:
        column, row = parts[:-2], parts[-2]
    elif named and len(parts) == 2:  # the sweep of a file whose cells are methods alone
        dataset = _of_data(fields, "known_as") or _of_data(fields, "name")
        column, row = ((dataset,) if dataset else ()), parts[-2]
    else:
        column, row = (parts if named else parts[:-1]), fields["method"]
    return Found(path, column, row, fields["seed"], folder, cells)


def _with_biases(runs: list[Found]) -> list[Found]:
    """Adds the bias to columns that are named by the data set, where runs of several biases would share one."""
    biases = {run.column: set() for run in runs}
    for run in (run for run in runs if run.column_is_dataset):
        biases[run.column].add(_of_data(run.config, "bias"))
    return [
        dataclasses.replace(run, column=(*run.column, *filter(None, [_of_data(run.config, "bias")])))
        if run.column_is_dataset and len(biases[run.column]) > 1
        else run
        for run in runs
    ]


def _same_place(before: Found, run: Found) -> UsageError:
    """The error for two runs of one cell with one seed."""
    said = f"{before.path} and {run.path} are both {' '.join([*run.column, run.row])} with seed {run.seed}"
    for one in (before, run):
        named = _SEED.match(one.path.name)
        if named and int(named[1]) != one.seed:
            said += f" ({stored.CONFIG} in {one.path} says so): train that one anew with seed={named[1]}, or"
            return UsageError(f"{said} report them apart")
    return UsageError(f"{said}: report them apart")


def _of_data(fields: dict, name: str) -> str:
    """The field `data.NAME` of a config.json; empty if that is older than the field, or damaged there."""
    data = fields.get("data")
    return str(data.get(name, "")) if isinstance(data, dict) else ""
