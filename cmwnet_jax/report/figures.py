"""Figures in the style of the paper's, with colours for the colour-blind."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmwnet_jax import drawing
from cmwnet_jax.report import curves
from cmwnet_jax.report.contact_sheet import corrected_pages, save_corrected_sheet

_ACROSS = 3  # largest number of panels side by side
_LINE = 15  # points, of a legend's line

_POOLED = (
    "weighting functions up to the largest loss seen: each seed (thin), their mean (thick)\n"
    "histograms: all seeds together"
)

# Rows of `save_weighting_figure`: what is drawn, and its height in inches.
_FUNCTIONS = (drawing.draw_weighting_functions, 3.0)
_OBSERVED = (drawing.draw_observed_losses, 1.5)
_HISTOGRAM = (drawing.draw_weight_histogram, 2.2)
_SHORT = (_FUNCTIONS, _HISTOGRAM)

Runs = Sequence[drawing.Arrays]
"""Arrays of runs of one method, with different seeds."""


def save_weighting_figure(columns: Mapping[str, Runs], path: Path, rows: Sequence[tuple] = _SHORT) -> None:
    """One column per method: its weighting functions, with the histogram of its weights below.

    Args:
        columns: title -> the arrays of weights.npz of each run of a method.
        path: a PNG file, written with 150 dots per inch.
        rows: what to draw, from top to bottom, with the heights in inches.
    """
    down = -(-len(columns) // _ACROSS)
    across = -(-len(columns) // down)
    heights = [height for _, height in rows]
    with matplotlib.rc_context(drawing.STYLE):
        size = (0.5 + 4.2 * across, down * (sum(heights) + 0.6 * len(heights) + 1.2))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(down * len(rows), across, squeeze=False, height_ratios=heights * down)
        place = [axes[len(rows) * (i // across) :, i % across][: len(rows)] for i in range(down * across)]
        lines = 1 + max(len(runs[0]["centers"]) for runs in columns.values())
        for own, (title, runs) in zip(place, columns.items(), strict=False):
            for panel, (draw, _) in zip(own, rows, strict=True):
                draw(panel, runs)
            _title(own[0], f"{title}, {drawing.seeds(len(runs))}", lines=lines)
        for own in place[len(columns) :]:
            for panel in own:
                panel.remove()
        for row in zip(*place[: len(columns)], strict=True):
            _share(row, across)
        if any(len(runs) > 1 for runs in columns.values()):
            figure.supxlabel(_POOLED, **drawing.NOTE)
        figure.savefig(path, dpi=150)


def _title(axes: Axes, text: str, lines: int = 0) -> None:
    """A title above a legend of so many lines."""
    axes.set_title(drawing.literal(text), fontweight="bold", fontsize=11, loc="left", pad=10 + _LINE * lines)


def _share(panels: Sequence[Axes], across: int) -> None:
    """Gives panels side by side the same limits, and labels to the first of each line alone."""
    for limits, set_limits in ((Axes.get_xlim, Axes.set_xlim), (Axes.get_ylim, Axes.set_ylim)):
        low, high = zip(*map(limits, panels), strict=True)
        # An image's axis points down.
        ends = (min(low), max(high)) if low[0] < high[0] else (max(low), min(high))
        for panel in panels:
            set_limits(panel, ends)
    for number, panel in enumerate(panels):
        if number % across:
            panel.set_ylabel("")
            panel.tick_params(labelleft=False)


def save_weighting_functions(arrays: drawing.Arrays, title: str, path: Path) -> None:
    """The weighting functions of one weight net.

    Args:
        arrays: `grid` [g], `functions` [K, g] and `centers` [K].
        title: where it was learned.
        path: a PNG file, written with 150 dots per inch; its folder is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(5, 4.6), layout="constrained")
        axes = figure.subplots()
        drawing.draw_weighting_functions(axes, [arrays])
        _title(axes, title, lines=1 + len(arrays["centers"]))
        figure.savefig(path, dpi=150)


def save_column_figures(runs: curves.ByRow, folder: Path) -> list[Path]:
    """All figures for one column of a table, i.e. one data set with one bias.

    Args:
        runs: finished or not; for unfinished ones, only learning curves are drawn.
        folder: folder for PNG files with 150 dots per inch, created if it is missing.

    Returns:
        Paths of the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = {row: [run for run in found if run.result is not None] for row, found in runs.items()}
    done = {row: found for row, found in done.items() if found}
    weights = {row: [run.arrays("weights") for run in found] for row, found in done.items()}
    learned = {row: arrays for row, arrays in weights.items() if all("functions" in one for one in arrays)}
    written = curves.save_curves(runs, folder)
    if learned:
        written.append(folder / "weighting.png")
        save_weighting_figure(learned, written[-1], rows=(_FUNCTIONS, _OBSERVED, _HISTOGRAM))
    if done:
        first = next(iter(done.values()))[0]
        names = first.class_names()
        confusions = {
            f"{row}, {drawing.seeds(len(found))}": sum(run.arrays("evaluation")["confusion"] for run in found)
            for row, found in done.items()
        }
        written.append(_matrices(drawing.draw_confusion, confusions, names, folder / "confusion.png"))
        written.append(_loss_densities(weights, names, folder / "loss_densities.png"))
        bias = first.arrays("bias")
        if "transition_matrix" in bias:
            given = {"given labels": bias["transition_matrix"]}
            written.append(_matrices(drawing.draw_transition, given, names, folder / "transition.png"))
    return written + corrected_sheets(done, folder)


def corrected_sheets(runs: curves.ByRow, folder: Path) -> list[Path]:
    """Sheets of 40 corrected labels for each row whose first seed's run has changed any image's label.

    Args:
        runs: finished runs.
        folder: folder for PNG files with 150 dots per inch.

    Returns:
        Paths of the sheets.
    """
    written = []
    for row, found in runs.items():
        first = min(found, key=lambda run: run.seed)
        if first.has("corrected") and len((arrays := first.arrays("corrected")).get("images", ())):
            pages = corrected_pages(arrays)
            for number, page in enumerate(pages, 1):
                written.append(folder / f"corrected_{row}{f'_{number}' if number > 1 else ''}.png")
                of_pages = f", sheet {number} of {len(pages)}" if len(pages) > 1 else ""
                save_corrected_sheet(page, f"{row}, seed {first.seed}{of_pages}", written[-1])
    return written


def _grid(count: int, height: float, layout: str = "constrained") -> tuple[Figure, list[Axes], int]:
    """(figure, panels, panels side by side); height in inches of each panel."""
    down = -(-count // _ACROSS)
    across = -(-count // down)
    figure = Figure(figsize=(0.6 + 4.2 * across, height * down), layout=layout)
    axes = list(figure.subplots(down, across, squeeze=False).ravel())
    for panel in axes[count:]:
        panel.remove()
    return figure, axes[:count], across


def _matrices(draw: Callable, matrices: Mapping[str, np.ndarray], names: Sequence[str], path: Path) -> Path:
    """One panel per matrix, with a colour bar for all of them."""
    with matplotlib.rc_context(drawing.STYLE):
        figure, panels, across = _grid(len(matrices), height=4.8, layout="compressed")
        for panel, (title, matrix) in zip(panels, matrices.items(), strict=True):
            image = draw(panel, matrix, names)
            _title(panel, title)
        _share(panels, across)
        drawing.add_share_bar(image, panels)
        if any("seeds" in title for title in matrices):
            figure.supxlabel("all seeds together", **drawing.NOTE)
        figure.savefig(path, dpi=150)
    return path


def _loss_densities(weights: Mapping[str, Runs], names: Sequence[str], path: Path) -> Path:
    largest = max(map(drawing.largest_drawn_loss, weights.values()))
    with matplotlib.rc_context(drawing.STYLE):
        figure, panels, across = _grid(len(weights), height=5.4)
        for panel, (row, runs) in zip(panels, weights.items(), strict=True):
            drawing.draw_loss_densities(panel, runs, names, largest)
            _title(panel, f"{row}, {drawing.seeds(len(runs))}", lines=3)
        _share(panels, across)
        note = "height: share of the examples of a class or size, square-root scale; all seeds together"
        figure.supxlabel(note, **drawing.NOTE)
        figure.savefig(path, dpi=150)
    return path
