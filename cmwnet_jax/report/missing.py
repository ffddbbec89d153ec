"""Runs that a report lacks."""

import itertools
from collections.abc import Sequence

from cmwnet_jax.report.find import Found
from cmwnet_jax.report.tables import in_order, natural


def missing(runs: Sequence[Found]) -> list[str]:
    """Unfinished cells, one line for those that lack the same seeds.

    Expected are the cells of sweeps, where a folder has a list of them, and the grid of rows and columns that
    all other runs span.

    Args:
        runs: finished or not.
    """
    by_place = {(run.column, run.row, run.seed): run for run in runs}
    columns, seeds = sorted({run.column for run in runs}, key=natural), sorted({run.seed for run in runs})
    lines, expected = [], _expected(runs)
    for column in columns:
        absent, under_way = {}, []
        for row in in_order(runs):
            if (column, row) not in expected:
                continue
            lacking = tuple(seed for seed in seeds if (column, row, seed) not in by_place)
            absent.setdefault(lacking, []).append(row)
            for run in (by_place[column, row, seed] for seed in seeds if seed not in lacking):
                if run.result is None:
                    done = f"{len(run.history)} of {run.num_epochs} epochs"
                    under_way.append(f"{' '.join([*column, row])}: seed {run.seed} has done {done}")
        for lacking, rows in absent.items():
            if lacking:
                name = " ".join([*column, ", ".join(rows)])
                lines.append(f"{name}: no run with seed {', '.join(map(str, lacking))}")
        lines += under_way
    return lines


def _expected(runs: Sequence[Found]) -> set[tuple[tuple[str, ...], str]]:
    """(column, row) of each cell that should have runs."""
    others = [run for run in runs if not run.cells]
    grid = itertools.product((run.column for run in others), (run.row for run in others))
    return set(grid).union(*(run.places() for run in runs))
