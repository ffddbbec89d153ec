"""Run folders, finished or not, and which cell of a table each is."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cmwnet_jax.array_files import read_npz
from cmwnet_jax.errors import UsageError

_SEED = re.compile(r"seed(\d+)$")


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A run's folder.

    Attributes:
        path: the folder.
        column: what the table's column stands for, e.g. `("fashion_mnist", "asymmetric_60")`.
        row: what its row stands for, as a rule the method.
        seed: the run's.
    """

    path: Path
    column: tuple[str, ...]
    row: str
    seed: int

    @functools.cached_property
    def result(self) -> dict | None:
        """What result.json holds; None for an unfinished run."""
        file = self.path / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    @functools.cached_property
    def history(self) -> list[dict]:
        """The metrics of the epochs so far."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    @functools.cached_property
    def num_epochs(self) -> int:
        """Of the whole run."""
        return json.loads((self.path / "config.json").read_text())["num_epochs"]

    def has(self, name: str) -> bool:
        """Whether there is an .npz for `arrays`; a run's method or age may not have it.

        Args:
            name: as `arrays` takes it.
        """
        return (self.path / f"{name}.npz").is_file()

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What an .npz of the folder holds.

        Args:
            name: `weights`, `evaluation`, `bias` or, where the method makes labels, `corrected`.

        Raises:
            UsageError: the file is damaged.
        """
        path = self.path / f"{name}.npz"
        remedy = "report without this run, or finish it again: remove its result.json, and train as before"
        return read_npz(path, f"{path} cannot be read", remedy, finite=False, text=True)


def find_runs(folders: Iterable[str | Path]) -> list[Found]:
    """All runs in these folders, however deep.

    A run in FOLDER/A/B/METHOD/seedN, which is where a sweep puts it, is of the column (A, B), the row METHOD
    and the seed N. A run whose folder has another name is of the method and the seed in its config, and of
    the column of the folders above.

    Args:
        folders: runs, or folders with runs in them.

    Raises:
        UsageError: there is no run, or two are of the same cell and seed.
    """
    found = {}
    for folder in map(Path, folders):
        for config in sorted(folder.expanduser().rglob("config.json")):
            run = _found(folder.expanduser(), config)
            before = found.setdefault((run.column, run.row, run.seed), run)
            if before.path.resolve() != run.path.resolve():
                raise UsageError(
                    f"{before.path} and {run.path} are both {' '.join([*run.column, run.row])} with seed "
                    f"{run.seed}: report them apart"
                )
    if not found:
        raise UsageError(
            f"{', '.join(map(str, folders))} holds no run: name folders that cmwnet_jax.train or "
            f"cmwnet_jax.sweep has written"
        )
    return list(found.values())


def find_cells(folders: Iterable[str | Path]) -> frozenset[str]:
    """The cells that the sweeps into these folders know, e.g. `mnist,0.1,erm`; empty where none says so.

    Args:
        folders: of sweeps, or others.
    """
    files = [Path(folder).expanduser() / "cells.json" for folder in folders]
    return frozenset(cell for file in files if file.exists() for cell in json.loads(file.read_text()))


def _found(folder: Path, config: Path) -> Found:
    parts, seed = config.parent.relative_to(folder).parts, _SEED.match(config.parent.name)
    if seed and len(parts) >= 2:
        return Found(config.parent, parts[:-2], parts[-2], int(seed[1]))
    fields = json.loads(config.read_text())
    column = parts[:-1] if seed is None else parts
    return Found(config.parent, tuple(column), fields["method"], fields["seed"])
