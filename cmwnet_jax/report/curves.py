"""Figures of metrics by epoch, one line per method."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cmwnet_jax import drawing
from cmwnet_jax.report.find import Found

ByRow = Mapping[str, Sequence[Found]]
"""Runs of one column by table row: method -> one run per seed."""

_Histories = Mapping[str, Sequence[Sequence[Mapping]]]  # by method, the metrics of each run's epochs
_BESIDE = {"loc": "outside right upper", "frameon": False, "fontsize": 9, "alignment": "left"}


def save_curves(runs: ByRow, folder: Path) -> list[Path]:
    """Draws learning_curves.png and, if weights of wrong labels are known, mean_weights.png.

    Args:
        runs: finished or not; unfinished ones are drawn of methods without a finished run, as far as all of the
            method's have come.
        folder: folder for PNG files with 150 dots per inch.

    Returns:
        Paths of the figures.
    """
    drawn = {row: _drawn(found) for row, found in runs.items()}
    histories = {
        f"{drawing.literal(row)}, {drawing.seeds(len(found))}": [run.history for run in found]
        for row, found in drawn.items()
        if found
    }
    repeated = any(len(found) > 1 for found in drawn.values())
    written = [_learning_curves(histories, repeated, folder / "learning_curves.png")]
    if _known(histories, "weight_mean_wrong"):
        written.append(_mean_weights(histories, repeated, folder / "mean_weights.png"))
    return written


def _drawn(runs: Sequence[Found]) -> list[Found]:
    """The finished runs; if there are none, those that have done an epoch."""
    return [run for run in runs if run.result is not None] or [run for run in runs if run.history]


def _known(histories: _Histories, field: str) -> bool:
    """Whether any epoch of any run has a metric."""
    return any(line.get(field) is not None for runs in histories.values() for run in runs for line in run)


def _learning_curves(histories: _Histories, repeated: bool, path: Path) -> Path:
    """Test accuracy and weight AUC: the mean over the seeds, with a band from the lowest to the highest."""
    has_auc = _known(histories, "weight_auc")
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(8, 6.8 if has_auc else 3.4), layout="constrained")
        all_axes = figure.subplots(1 + has_auc, 1, squeeze=False, sharex=True)[:, 0]
        _draw_bands(all_axes[0], histories, "test_accuracy_percent")
        all_axes[0].set(ylabel="test accuracy (%)")
        if has_auc:
            _draw_bands(all_axes[1], histories, "weight_auc")
            all_axes[1].set(ylabel="AUC of the weights", ylim=(0, 1))
            meaning = "1: every right label weighs more than every wrong one; 0.5: chance"
            all_axes[1].set_title(meaning, loc="left", **drawing.NOTE)
        _label_epochs(all_axes)
        title = "line: mean over seeds\nband: lowest to highest" if repeated else ""
        figure.legend(*all_axes[0].get_legend_handles_labels(), title=title, **_BESIDE)
        figure.savefig(path, dpi=150)
    return path


def _mean_weights(histories: _Histories, repeated: bool, path: Path) -> Path:
    """Mean weight of right labels (solid) and of wrong ones (dashed), one colour per method."""
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        for place, (name, runs) in enumerate(histories.items()):
            for field, style, of in (("weight_mean_right", "-", "right"), ("weight_mean_wrong", "--", "wrong")):
                epochs, columns = _by_epoch(runs, field)
                if epochs:
                    means, color = _each(np.mean, columns), drawing.LINES[place % len(drawing.LINES)]
                    axes.plot(epochs, means, style, color=color, linewidth=1.8, label=f"{name}: {of} labels")
        axes.set(ylabel="mean weight", ylim=(0, None))
        _label_epochs([axes])
        title = f"mean over labels{' and seeds' if repeated else ''}"
        figure.legend(*axes.get_legend_handles_labels(), title=title, **_BESIDE)
        figure.savefig(path, dpi=150)
    return path


def _draw_bands(axes: Axes, histories: _Histories, field: str) -> None:
    for place, (name, runs) in enumerate(histories.items()):
        epochs, columns = _by_epoch(runs, field)
        if epochs:
            again, number = divmod(place, len(drawing.LINES))
            color = drawing.LINES[number]
            means = _each(np.mean, columns)
            style = drawing.LINE_STYLES[again % len(drawing.LINE_STYLES)]
            axes.plot(epochs, means, style, color=color, linewidth=1.8, label=name)
            low, high = (_each(pick, columns) for pick in (min, max))
            axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)


def _label_epochs(all_axes: Sequence[Axes]) -> None:
    all_axes[-1].set(xlabel="epoch")
    for axes in all_axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
        axes.grid(alpha=0.25)


def _by_epoch(runs: Sequence[Sequence[Mapping]], field: str) -> tuple[list[int], list[list[float]]]:
    """(the epochs, from 1, in which all runs that have a metric know it; its values in each of them)."""
    known = [{line["epoch"] + 1: line[field] for line in run if line.get(field) is not None} for run in runs]
    known = [values for values in known if values]
    epochs = sorted(set.intersection(*map(set, known))) if known else []
    return epochs, [[values[epoch] for values in known] for epoch in epochs]


def _each(reduce: Callable, columns: Sequence[Sequence[float]]) -> list[float]:
    return [reduce(column) for column in columns]
