"""Figures in the style of the paper's, with colours for the colour-blind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmwnet_jax import drawing
from cmwnet_jax.report.contact_sheet import save_corrected_sheet
from cmwnet_jax.report.find import Found

_ACROSS = 3  # largest number of panels side by side


def save_weighting_figure(columns: Sequence[tuple[str, Sequence[Found]]], path: Path) -> None:
    """One column per method: its weighting functions, with the histogram of its weights below.

    Args:
        columns: (title, runs) of each method.
        path: a PNG file, written with 150 dots per inch.
    """
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(4.6 * len(columns), 7.6), layout="constrained")
        for part, (title, runs) in zip(
            figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True
        ):
            part.suptitle(drawing.literal(title), fontweight="bold")
            functions, histogram = part.subplots(2, 1)
            arrays = [run.arrays("weights") for run in runs]
            drawing.draw_weighting_functions(functions, arrays)
            drawing.draw_weight_histogram(histogram, arrays)
        figure.savefig(path, dpi=150)


def save_weighting_functions(arrays: drawing.Arrays, path: Path) -> None:
    """The weighting functions of one weight net.

    Args:
        arrays: `grid` [g], `functions` [K, g] and `centers` [K].
        path: a PNG file, written with 150 dots per inch; its folder is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(5, 4.4), layout="constrained")
        drawing.draw_weighting_functions(figure.subplots(), [arrays])
        figure.savefig(path, dpi=150)


ByRow = Mapping[str, Sequence[Found]]
"""Runs of one column by table row: method -> one run per seed."""


def save_column_figures(runs: ByRow, folder: Path) -> list[Path]:
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
    confusions = {
        row: sum(run.arrays("evaluation")["confusion"] for run in found) for row, found in done.items()
    }
    written = [_learning_curves(runs, folder / "learning_curves.png")]
    if any(line.get("weight_mean_wrong") is not None for line in _lines(runs)):
        written.append(_mean_weights(runs, folder / "mean_weights.png"))
    if learned:
        panels = {
            row: (lambda part, arrays=arrays: _weighting_panel(part, arrays)) for row, arrays in learned.items()
        }
        written.append(_panels(panels, folder / "weighting.png", height=8.6))
    if done:
        draw = drawing.draw_confusion
        panels = {row: _matrix(draw, confusion) for row, confusion in confusions.items()}
        written.append(_panels(panels, folder / "confusion.png", height=4.2))
        panels = {row: _in_axes(drawing.draw_loss_densities, arrays) for row, arrays in weights.items()}
        written.append(_panels(panels, folder / "loss_densities.png", height=5.2))
        bias = next(iter(done.values()))[0].arrays("bias")
        if "transition_matrix" in bias:
            panels = {"given labels": _matrix(drawing.draw_transition, bias["transition_matrix"])}
            written.append(_panels(panels, folder / "transition.png", height=4.2))
    return written + corrected_sheets(done, folder)


def corrected_sheets(runs: ByRow, folder: Path) -> list[Path]:
    """One sheet of corrected labels for each row whose first seed's run has changed any image's label.

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
            written.append(folder / f"corrected_{row}.png")
            save_corrected_sheet(arrays, f"{row}, seed {first.seed}", written[-1])
    return written


def _lines(runs: ByRow) -> Iterator[Mapping]:
    """The metrics of all epochs of all runs."""
    return (line for found in runs.values() for run in found for line in run.history)


def _histories(runs: ByRow) -> dict[str, list]:
    return {drawing.literal(row): [run.history for run in found] for row, found in runs.items()}


def _mean_weights(runs: ByRow, path: Path) -> Path:
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        drawing.draw_mean_weights(figure.subplots(), _histories(runs))
        figure.savefig(path, dpi=150)
    return path


def _learning_curves(runs: ByRow, path: Path) -> Path:
    histories = _histories(runs)
    shown = [("test_accuracy_percent", "test accuracy (%)")]
    if any(line.get("weight_auc") is not None for line in _lines(runs)):
        shown.append(("weight_auc", "weight AUC"))
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(7.4, 3.4 * len(shown)), layout="constrained")
        all_axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (field, label) in zip(all_axes, shown, strict=True):
            drawing.draw_learning_curves(axes, histories, field, label)
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        figure.savefig(path, dpi=150)
    return path


def _panels(draw: Mapping[str, Callable], path: Path, height: float) -> Path:
    """Draws one panel per name."""
    down = -(-len(draw) // _ACROSS)
    across = -(-len(draw) // down)
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(4.6 * across, height * down), layout="constrained")
        parts = figure.subfigures(down, across, squeeze=False).ravel()
        for part, (title, fill) in zip(parts, draw.items(), strict=False):
            part.suptitle(drawing.literal(title), fontweight="bold")
            fill(part)
        figure.savefig(path, dpi=150)
    return path


def _weighting_panel(part: Figure, arrays: Sequence[drawing.Arrays]) -> None:
    functions, observed, histogram = part.subplots(3, 1, height_ratios=(3, 1.4, 2.2))
    drawing.draw_weighting_functions(functions, arrays)
    drawing.draw_observed_losses(observed, arrays)
    drawing.draw_weight_histogram(histogram, arrays)


def _in_axes(draw: Callable[[Axes, Sequence[drawing.Arrays]], None], arrays) -> Callable:
    return lambda part: draw(part.subplots(), arrays)


def _matrix(draw: Callable, matrix) -> Callable:
    return lambda part: draw(part.subplots(), matrix, [str(c) for c in range(len(matrix))])
