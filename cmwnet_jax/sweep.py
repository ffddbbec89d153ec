"""`python -m cmwnet_jax.sweep --config=FILE.py --workdir=DIR [--only=PATTERN] [--seeds=N] [--shard=I/N]`.

Trains the cells of a config file, each in DIR/CELL/seedN, where the commas of CELL become folders. A cell is
an argument string for the file's `get_config`; `get_cells()` lists them. Finished runs are skipped, unless the
config now asks for more epochs; unfinished ones continue, and a failure does not stop the others. In a job
array, --shard=2/8 trains every eighth cell, starting with the second.

If cells build on another cell's run, e.g. on its labels, the file's `get_first_stage(CELL)` returns that cell
(empty for none). It is trained first, with the same seed, and once for all cells that build on it. Its folder
is appended to their arguments as stage1=FOLDER. If it fails, they fail, too. Once they have begun, it cannot be
given more epochs.
"""

from cmwnet_jax.train import signals

if __name__ == "__main__":
    signals.stop_at_once()  # before the imports, which take seconds

import dataclasses
import fnmatch
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cmwnet_jax import command
from cmwnet_jax.errors import Preempted, TrainingDiverged, UsageError, first_line
from cmwnet_jax.files import folder_to_write, local_folder, refused, replace_file
from cmwnet_jax.runs import stored

_CONFIG = flags.DEFINE_string("config", None, "FILE.py with get_config and get_cells")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for all runs")
_ONLY = flags.DEFINE_string("only", "*", "cells whose argument string matches, e.g. 'cifar10,100,*'")
_SEEDS = flags.DEFINE_integer("seeds", 1, "runs of each cell, with the seeds from 0", lower_bound=1)
_ARGS = flags.DEFINE_string("args", "", "appended to each cell's arguments, e.g. epochs=5,raw_dir=PATH")
_SHARD = flags.DEFINE_string("shard", "1/1", "I/N: this job's share of the runs, the I-th of N")
_LIST = flags.DEFINE_bool("list", False, "print the runs and what is done of them, and exit")


@dataclasses.dataclass(frozen=True)
class Run:
    """One cell with one seed.

    Attributes:
        arg: the argument string for the config.
        folder: folder of the run.
        first_stage: the run that it builds on, if any.
        built_on: folders of the runs that build on it.
        problem: why it cannot be trained; empty if it can.
    """

    arg: str
    folder: Path
    first_stage: "Run | None" = None
    built_on: tuple[Path, ...] = ()
    problem: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the run is finished."""
        return stored.is_finished(self.folder)


def plan(
    cells: list[str],
    workdir: Path,
    *,
    only: str,
    seeds: int,
    args: str,
    shard: str,
    get_first_stage: Callable[[str], str] = lambda cell: "",
) -> list[Run]:
    """The runs of this job, one seed after the other, so that a first table is available early.

    Args:
        cells: argument strings.
        workdir: folder of all runs.
        only: a pattern with `*` and `?` for whole argument strings.
        seeds: number of runs per cell.
        args: appended to each argument string.
        shard: `I/N`. Runs with the same first stage go to the same job, so that only one trains it.
        get_first_stage: cell -> the cell that it builds on, or an empty string.

    Raises:
        UsageError: no cell matches, the shard is malformed, or the path cannot be part of an argument.
    """
    if any(token.strip().startswith("seed=") for token in args.split(",")):
        raise UsageError(f"--args is {args!r}, expected no seed: --seeds=N takes the seeds from 0")
    chosen = [cell for cell in cells if fnmatch.fnmatchcase(cell, only)]
    if not chosen:
        raise UsageError(f"--only={only} matches none of the {len(cells)} cells, e.g. {cells[0]}: use * and ?")
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard is {shard!r}, expected I/N with I from 1 to N, e.g. 2/8")
    first_of = {cell: _first_stage(get_first_stage, cell) for cell in cells}
    runs = [_run(workdir, cell, seed, args, first_of) for seed in range(seeds) for cell in chosen]
    jobs = list(dict.fromkeys(_job(run) for run in runs))
    mine = set(jobs[int(index) - 1 :: int(count)])
    return [run for run in runs if _job(run) in mine]


def _first_stage(get_first_stage: Callable[[str], str], cell: str) -> str | UsageError:
    """The cell that a cell builds on, empty for none; or why the file cannot say which."""
    try:
        first = get_first_stage(cell) or ""
        if first and not _is_cell(first):
            raise UsageError(f"get_first_stage returned {first!r}, expected a cell or an empty string")
    except (Exception, SystemExit) as error:
        return UsageError(_what_came(error))
    return first


def _run(workdir: Path, cell: str, seed: int, args: str, first_of: Mapping[str, str | UsageError]) -> Run:
    """A cell's run, with its first stage; it will fail if that is not known."""
    first = first_of.get(cell, "")
    parts = [cell, f"seed={seed}", *([args] if args else [])]
    first_stage, problem = None, str(first) if isinstance(first, UsageError) else ""
    if first and not problem:
        path = str(_folder(workdir, first, seed).absolute())
        if "," in path:
            raise UsageError(f"--workdir is {str(workdir)!r}, expected a path without commas: choose another")
        parts.append(f"stage1={path}")
        # A stage has one stage before it at most.
        first_stage = _run(workdir, first, seed, args, first_of | {first: ""})
    built_on = tuple(_folder(workdir, other, seed) for other, of in first_of.items() if of == cell)
    return Run(",".join(parts), _folder(workdir, cell, seed), first_stage, built_on, problem)


def _folder(workdir: Path, cell: str, seed: int) -> Path:
    return workdir.joinpath(*cell.split(","), f"seed{seed}")


def _job(run: Run) -> Path:
    """Runs with the same value must stay in the same job."""
    return run.folder if run.first_stage is None else run.first_stage.folder


def sweep(get_config: Callable[[str], ConfigDict], runs: list[Run]) -> dict[str, str]:
    """Trains the unfinished runs.

    Args:
        get_config: argument string -> config.
        runs: runs of this job.

    Returns:
        Errors by argument string.

    Raises:
        Preempted: training was asked to stop; the current run is saved.
    """
    tried, seconds = {}, []
    for place, run in enumerate(runs):
        took = _train_once(get_config, run, tried)
        seconds += [took] if took else []
        left = [other for other in runs[place + 1 :] if not other.is_done]
        if left and seconds:
            minutes = len(left) * sum(seconds) / len(seconds) / 60
            print(f"{len(left)} of {len(runs)} runs left, about {minutes:.0f} min", file=sys.stderr, flush=True)
    return {run.arg: str(tried[run.arg]) for run in runs if tried[run.arg] is not None}


def _train_once(get_config: Callable[[str], ConfigDict], run: Run, tried: dict[str, Exception | None]) -> float:
    """Trains a run and returns the seconds without its first stage; 0 if it was tried, is finished, or fails.

    Stores the error (None if there is none) in `tried` by argument string, and reports it once.
    """
    if run.arg in tried:
        return 0.0
    first = None if run.is_done else run.first_stage
    if first is not None:
        _train_once(get_config, first, tried)
    seconds, tried[run.arg] = 0.0, None
    try:
        if first is not None and tried[first.arg] is not None:
            raise UsageError(f"it builds on {first.arg}, which failed: {first_line(tried[first.arg])}")
        seconds = _train(get_config, run)
    except Preempted:
        raise
    except (Exception, SystemExit) as error:  # whatever the error, the other runs can still be trained
        tried[run.arg] = UsageError(_what_came(error))
        print(f"failed: {run.arg}: {tried[run.arg]}", file=sys.stderr, flush=True)
    return seconds


def _what_came(error: BaseException) -> str:
    """One line about an error of the user, or about a bug and its place."""
    known = isinstance(error, UsageError | TrainingDiverged)
    return str(error) if known else f"it raised {command.what_came(error)}"


def _train(get_config: Callable[[str], ConfigDict], run: Run) -> float:
    """Trains a run and returns the seconds; 0 if it was already finished."""
    # JAX and the launcher take seconds to import; --help, --list and wrong flags need neither.
    import jax

    from cmwnet_jax.train.config import run_folder
    from cmwnet_jax.train.loop import train
    from cmwnet_jax.train.preemption import stop_if_asked

    if run.problem:
        raise UsageError(run.problem)
    config = get_config(run.arg)
    if not isinstance(config, ConfigDict) or not config:
        raise UsageError(command.no_config(config))
    folder = run_folder(run.folder)
    if run.is_done and config.get("num_epochs", 0) <= folder.finished_config().num_epochs:
        folder.check_finished(config)  # a finished run of another config is an error
        return 0.0
    begun = [path for path in run.built_on if path.is_dir() and stored.holds_run(os.listdir(path))]
    if run.is_done and begun:
        raise UsageError(
            f"{run.folder} is finished after {folder.finished_config().num_epochs} epochs, and {begun[0]} "
            f"builds on it, expected no more than these, not {config.num_epochs}: take another --workdir, or "
            f"remove what builds on it"
        )
    started = time.perf_counter()
    train(config, run.folder)
    jax.clear_caches()  # a process may hold only so many programs: each takes memory maps
    stop_if_asked()
    return time.perf_counter() - started


def cells_of(names: Mapping[str, Any], path: str) -> tuple[list[str], dict[str, str]]:
    """The cells of a config file, and what is wrong with invalid ones.

    Args:
        names: the names that the file defines.
        path: the file.

    Returns:
        (cells without duplicates; for each invalid entry, why it is no cell).

    Raises:
        UsageError: the file lists no cells.
    """
    if not all(callable(names.get(name)) for name in ("get_config", "get_cells")):
        raise UsageError(f"--config={path} has no get_config and get_cells: sweep over a file that has both")
    try:
        listed = names["get_cells"]()
        if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
            raise UsageError(f"it returned {type(listed).__name__}, expected a list of argument strings")
        listed = list(listed)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--config={path} has a get_cells that cannot be used: {_what_came(error)}") from error
    if not listed:
        raise UsageError(f"--config={path} has a get_cells that lists none, expected one or more: add cells")
    cells, wrong = {}, {}
    for cell in listed:
        if not _is_cell(cell):
            wrong[str(cell)] = (
                f"the cell is {cell!r}, expected values that name folders, with commas between them"
            )
        elif cells.setdefault(cell.replace(",", "/"), cell) != cell:
            wrong[cell] = f"the cell has the folder of {cells[cell.replace(',', '/')]}, expected one of its own"
    return list(cells.values()), wrong


def _is_cell(cell: Any) -> bool:
    """Whether each part of the cell names a folder inside of the one before."""
    names = [name for part in cell.split(",") for name in part.split("/")] if isinstance(cell, str) else [""]
    return all(name.isprintable() and name.strip() == name and name not in ("", ".", "..") for name in names)


def _list_cells(workdir: Path, config_file: str, cells: list[str]) -> None:
    """Adds the config file's cells to the lists that tell the report which cells and which paper's they are."""
    listed, name = stored.read_cells(workdir), Path(config_file).stem
    listed[name] = list(dict.fromkeys([*listed.get(name, []), *cells]))
    # An older version's list does not say whose cells it has; the sweep checks that these are its own.
    if unnamed := [cell for cell in listed.pop("", []) if cell not in cells]:
        listed[""] = unnamed
    with refused("--workdir", workdir, "cannot be written"):
        workdir.mkdir(parents=True, exist_ok=True)
        replace_file(workdir / stored.CELLS, json.dumps(listed, indent=0) + "\n")


def main(argv: list[str]) -> None:
    """Plans and trains the runs, and reports failures."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    path = command.required(_CONFIG.value, "config", "a config file, e.g. --config=experiments/compare.py")
    workdir = local_folder("--workdir", command.required(_WORKDIR.value, "workdir", "the folder for all runs"))
    names = command.load_file(path)
    cells, failures = cells_of(names, path)
    for cell, said in failures.items():
        print(f"failed: {cell}: {said}", file=sys.stderr, flush=True)
    options = {"only": _ONLY.value, "seeds": _SEEDS.value, "args": _ARGS.value, "shard": _SHARD.value}
    if "get_first_stage" in names:
        options["get_first_stage"] = names["get_first_stage"]
    runs = plan(cells, workdir, **options) if cells else []
    count = len(runs) + len(failures)
    if _LIST.value:
        for run in runs:
            print(f"{'done' if run.is_done else 'to do'}  {run.arg}")
    else:
        folder_to_write("--workdir", workdir)
        _list_cells(workdir, path, cells)
        failures |= sweep(names["get_config"], runs)
        done = sum(run.is_done and run.arg not in failures for run in runs)
        print(f"{done} of {count} runs are done, in {workdir}")
    if failures:
        arg, said = next(iter(failures.items()))
        raise UsageError(f"{len(failures)} of {count} runs failed, the first, {arg}: {said}")


if __name__ == "__main__":
    command.run(main)
