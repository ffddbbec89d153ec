"""Selective classification: Table 15's errors at given coverages, and Fig. 18's risk-coverage curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmwnet_jax import drawing
from cmwnet_jax.report.find import Found
from cmwnet_jax.report.paper import Paper, beside
from cmwnet_jax.report.tables import Cell, Table, natural
from cmwnet_jax.runs import stored

_COVERAGE = "coverage="
_LEAST_SHOWN = 2  # per cent; the error among fewer examples is mostly noise


def selective_runs(runs: Sequence[Found]) -> list[Found]:
    """The finished runs whose errors are known at given coverages, in the order of the methods.

    Args:
        runs: finished or not.
    """
    chosen = [run for run in runs if run.result is not None and run.has("selective")]
    return sorted(chosen, key=lambda run: (natural(place(run)[:-1]), run.result.get(stored.METHOD_PLACE, 0)))


def place(run: Found) -> tuple[str, ...]:
    """The run's column in Table 15: its column and row elsewhere, without the coverage of its network.

    Args:
        run: any run, e.g. in cifar10/20/selectivenet/coverage=70/seed0.

    Returns:
        E.g. `("cifar10", "20", "selectivenet")`; the last part is the method.
    """
    return tuple(part for part in (*run.column, run.row) if not part.startswith(_COVERAGE))


def selective_table(runs: Sequence[Found], paper: Paper) -> Table:
    """Table 15: one row per coverage, one column per data set, imbalance and method.

    Args:
        runs: as `selective_runs` gives them.
        paper: the paper's errors by column and coverage, e.g. `cifar10,20,selectivenet,70`.
    """
    errors, covered, of_column = {}, {}, {}
    for run in runs:
        of_column.setdefault(place(run), []).append(run)
        arrays = run.arrays("selective")
        for coverage, accepted, wrong in _numbers(arrays):
            if accepted:
                cell = f"{coverage:g}", place(run)
                errors.setdefault(cell, {})[run.seed] = 100 * wrong / accepted
                covered.setdefault(cell, []).append(100 * accepted / len(arrays["curve_percent"]))
    rows = sorted({row for row, _ in errors}, key=float, reverse=True)
    columns = list(of_column)
    cells = {
        (row, column): Cell(
            errors.get((row, column), {}),
            beside(paper, ",".join([*column, row]), of_column[column]),
            f"covers {np.mean(covered[row, column]):.1f}" if (row, column) in covered else "",
        )
        for row in rows
        for column in columns
    }
    title = (
        "selective error (%) on the test split by coverage (%), with thresholds calibrated on training images "
        "that were set apart; mean ± sd over seeds (number of runs, coverage on the test split)"
    )
    return Table(title, rows, columns, cells, decimals=2, split_by=2)


def _numbers(arrays: Mapping[str, np.ndarray]) -> Sequence[tuple[float, int, int]]:
    """(coverage in per cent, accepted, wrong) for each coverage of a run."""
    return list(zip(*(arrays[name] for name in ("coverages_percent", "accepted", "wrong")), strict=True))


def save_risk_coverage_figures(runs: Sequence[Found], folder: Path) -> list[Path]:
    """One figure like Fig. 18 for each data set and imbalance, with all methods.

    Args:
        runs: finished or not; those without a calibration split are left out.
        folder: the report's folder of figures; PNG files with 150 dots per inch are written to its subfolders.

    Returns:
        Paths of the figures.
    """
    by_column: dict[tuple[str, ...], dict[str, list[Found]]] = {}
    for run in selective_runs(runs):
        *column, method = place(run)
        by_column.setdefault(tuple(column), {}).setdefault(method, []).append(run)
    return [_save(methods, folder.joinpath(*column)) for column, methods in by_column.items()]


def _save(methods: Mapping[str, Sequence[Found]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(9.6, 4.8), layout="constrained")
        calibrated, curves = figure.subplots(1, 2, sharey=True)
        for number, (method, found) in enumerate(methods.items()):
            arrays = [run.arrays("selective") for run in found]
            color = drawing.LINES[number % len(drawing.LINES)]
            style = {"color": color, "linestyle": drawing.LINE_STYLES[number % len(drawing.LINE_STYLES)]}
            count = len({run.seed for run in found})
            _draw_errors(calibrated, arrays, f"{drawing.literal(method)}, {drawing.seeds(count)}", style)
            _draw_curves(curves, arrays, style)
        calibrated.set(ylabel="wrong among the accepted (%)", xlim=(None, 100.5), ylim=(0, None))
        curves.set_xlim(0, 100.5)
        calibrated.set_title("thresholds from calibration images", fontsize=10)
        curves.set_title("all thresholds on the test split", fontsize=10)
        for axes in (calibrated, curves):
            axes.set_xlabel("coverage: share of the examples that is accepted (%)")
            axes.grid(alpha=0.25)
        figure.legend(
            *calibrated.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
        note = "lines: mean over seeds; bands: lowest to highest; faint: trained for one coverage each"
        figure.supxlabel(note, **drawing.NOTE)
        figure.savefig(folder / "risk_coverage.png", dpi=150)
    return folder / "risk_coverage.png"


def _draw_errors(axes: Axes, runs: Sequence[drawing.Arrays], label: str, style: Mapping) -> None:
    """The error at each coverage: the mean over seeds, with a band from minimum to maximum."""
    errors: dict[float, list[float]] = {}
    for coverage, accepted, wrong in (numbers for arrays in runs for numbers in _numbers(arrays)):
        if accepted:
            errors.setdefault(coverage, []).append(100 * wrong / accepted)
    coverages = sorted(errors)
    axes.plot(coverages, [np.mean(errors[c]) for c in coverages], marker="o", ms=4, label=label, **style)
    low, high = ([pick(errors[c]) for c in coverages] for pick in (min, max))
    axes.fill_between(coverages, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _draw_curves(axes: Axes, runs: Sequence[drawing.Arrays], style: Mapping) -> None:
    """The risk-coverage curve of each kind of network, the mean over seeds; of several kinds, faint."""
    grid = np.linspace(_LEAST_SHOWN, 100, 200)
    kinds: dict[tuple[float, ...], list[np.ndarray]] = {}
    for arrays in runs:
        curve = arrays["curve_percent"]
        own = np.interp(grid, 100 * np.arange(1, len(curve) + 1) / len(curve), curve)
        kinds.setdefault(tuple(arrays["coverages_percent"]), []).append(own)
    for curves in kinds.values():
        axes.plot(grid, np.mean(curves, axis=0), alpha=0.9 if len(kinds) == 1 else 0.45, **style)
