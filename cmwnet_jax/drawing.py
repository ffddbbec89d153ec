"""Plots of what runs learned, drawn into given axes: for the report and for a run's own pictures.

Everything is drawn from the arrays of a run's weights.npz (`train.result.weight_arrays`), so an unfinished run
can be plotted like a finished one. Uses neither JAX nor the global state of pyplot, so it is safe during
training.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, distinguishable with every kind of colour vision; line styles help in greyscale.
_META_CLASS_STYLES = (
    ("#0072B2", "-"),
    ("#009E73", "--"),
    ("#D55E00", "-."),
    ("#CC79A7", ":"),
    ("#000000", "-"),
)
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Line colours, for colour-blind readers too."""
_RIGHT, _WRONG = "#56B4E9", "#E69F00"
_NAMES_BY_COUNT = {1: ("all",), 2: ("small", "large"), 3: ("small", "moderate", "large")}
_NUMBERED = 12  # largest number of classes for which a confusion matrix shows its numbers
_NAMED = 20  # and the names of its classes

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
"""Matplotlib settings to use with these functions."""

Arrays = Mapping[str, np.ndarray]


def literal(name: str) -> str:
    """Escapes a name for Matplotlib: `$` starts no formula, and a leading `_` does not hide it in a legend."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def meta_class_names(centers: Sequence[float]) -> list[str]:
    """A name per meta-class, with its centre if that is known, e.g. `small (about 14 examples)`."""
    count = len(centers)
    names = _NAMES_BY_COUNT.get(count, tuple(f"meta-class {k + 1} of {count}" for k in range(count)))
    return [
        name if np.isnan(center) else f"{name} (about {center:.0f} examples)"
        for name, center in zip(names, centers, strict=True)
    ]


def of_seen(runs: Sequence[Arrays], *names: str) -> list[np.ndarray]:
    """Pools arrays from several runs' weights.npz, for the examples seen in the last epoch.

    Args:
        runs: arrays by name, per run.
        *names: names of arrays [n].
    """
    seen = [run["seen"] if "seen" in run else slice(None) for run in runs]  # older runs saw all examples
    return [np.concatenate([run[name][rows] for run, rows in zip(runs, seen, strict=True)]) for name in names]


def _right_name(runs: Sequence[Arrays], wrong: np.ndarray) -> str:
    """Name of the examples that are not wrong; if the truth is unknown, they are not called right."""
    known = all(run.get("truth_known", True) for run in runs)
    return "right" if known and wrong.any() else "not known to be wrong"


def draw_weighting_functions(axes: Axes, runs: Sequence[Arrays]) -> None:
    """The K weighting functions over the loss: their mean, and each run as a faint line (Fig. 2c, top).

    Args:
        axes: where to draw.
        runs: `grid` [g], `functions` [K, g] and `centers` [K] of runs of one method with the same K.
    """
    # Only up to the largest loss that every run's weight net has seen; beyond it, the net extrapolates.
    top = min(float(run["grid"][-1]) for run in runs)
    grid = np.linspace(0, top, 200)
    curves = np.array([[np.interp(grid, run["grid"], f) for f in run["functions"]] for run in runs])
    names = meta_class_names(np.mean([run["centers"] for run in runs], axis=0))
    for k, name in enumerate(names):
        color, style = _META_CLASS_STYLES[k % len(_META_CLASS_STYLES)]
        axes.plot(grid, curves[:, k].T, color=color, linewidth=0.6, alpha=0.3)
        axes.plot(grid, curves[:, k].mean(axis=0), color=color, linestyle=style, linewidth=2.2, label=name)
    axes.set(xlabel="loss (nats)", ylabel="weight", xlim=(0, top), ylim=(0, 1))
    _legend_above(axes, "given classes that are")


def draw_weight_histogram(axes: Axes, runs: Sequence[Arrays]) -> None:
    """Weight histograms of rightly and wrongly labelled examples, each normalised by itself (Fig. 2c, bottom).

    Args:
        axes: where to draw.
        runs: `weights`, `given` and `true`, [n] each, of runs of one method; they are pooled.
    """
    weights, given, true = of_seen(runs, "weights", "given", "true")
    wrong = given != true
    bins = np.linspace(0, 1, 41)
    right = _right_name(runs, wrong)
    for chosen, color, hatch, name in ((~wrong, _RIGHT, None, right), (wrong, _WRONG, "///", "wrong")):
        if chosen.any():
            share = np.full(chosen.sum(), 100 / chosen.sum())
            axes.hist(
                weights[chosen],
                bins,
                weights=share,
                color=color,
                alpha=0.65,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                label=f"{name} ({100 * chosen.mean():.0f}% of the examples)",
            )
    axes.set(xlabel="weight in the last epoch", ylabel="share of each (%)", xlim=(0, 1))
    _legend_above(axes, "examples whose given label is")


def draw_observed_losses(axes: Axes, runs: Sequence[Arrays]) -> None:
    """Histogram of observed losses per meta-class, to be placed below the weighting functions.

    Args:
        axes: where to draw.
        runs: `losses` [n], `meta_class` [n], `grid` [g] and `centers` [K] of runs of one method.
    """
    top = min(float(run["grid"][-1]) for run in runs)
    losses, meta_class = of_seen(runs, "losses", "meta_class")
    bins = np.linspace(0, top, 61)
    for k in range(len(runs[0]["centers"])):
        chosen = losses[meta_class == k]
        if len(chosen):
            color, style = _META_CLASS_STYLES[k % len(_META_CLASS_STYLES)]
            share = np.full(len(chosen), 100 / len(chosen))
            axes.hist(chosen, bins, weights=share, histtype="step", color=color, linestyle=style, linewidth=1.6)
    axes.set(xlabel="loss in the last epoch (nats)", ylabel="share of each (%)", xlim=(0, top), yscale="log")


def draw_learning_curves(
    axes: Axes, histories: Mapping[str, Sequence[Sequence[Mapping]]], field: str, label: str
) -> None:
    """A metric by epoch, one line per method: the mean over its runs, with a band from minimum to maximum.

    Args:
        axes: where to draw.
        histories: by method, the metrics of each run's epochs.
        field: name of the metric.
        label: label of the axis, with the unit.
    """
    for place, (name, runs) in enumerate(histories.items()):
        epochs, columns = _by_epoch(runs, field)
        if epochs:
            color, style = LINES[place % len(LINES)], ("-", "--", "-.", ":")[place // len(LINES) % 4]
            axes.plot(epochs, _each(np.mean, columns), style, color=color, linewidth=1.8, label=name)
            low, high = (_each(pick, columns) for pick in (min, max))
            axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)


def _by_epoch(runs: Sequence[Sequence[Mapping]], field: str) -> tuple[list[int], list[list[float]]]:
    """(the epochs, from 1, in which a metric is known; its values of all runs in each of them)."""
    columns = {}
    for line in (line for run in runs for line in run):
        if line.get(field) is not None:
            columns.setdefault(line["epoch"] + 1, []).append(line[field])
    return sorted(columns), [columns[epoch] for epoch in sorted(columns)]


def _each(reduce: Callable, columns: Sequence[Sequence[float]]) -> list[float]:
    return [reduce(column) for column in columns]


def draw_mean_weights(axes: Axes, histories: Mapping[str, Sequence[Sequence[Mapping]]]) -> None:
    """Mean weight of right labels (solid) and of wrong ones (dashed) by epoch, one colour per method.

    Args:
        axes: where to draw.
        histories: by method, the metrics of each run's epochs; epochs without these weights are left out.
    """
    for place, (name, runs) in enumerate(histories.items()):
        for field, style, of in (("weight_mean_right", "-", "right"), ("weight_mean_wrong", "--", "wrong")):
            epochs, columns = _by_epoch(runs, field)
            if epochs:
                color, means = LINES[place % len(LINES)], _each(np.mean, columns)
                axes.plot(epochs, means, style, color=color, linewidth=1.8, label=f"{name}: {of}")
    axes.set(xlabel="epoch", ylabel="mean weight of labels")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_loss_densities(axes: Axes, runs: Sequence[Arrays]) -> None:
    """Histograms of the losses, one line per given class, for right and wrong labels separately (Fig. 13a).

    With more than 20 classes, one line per meta-class.

    Args:
        axes: where to draw.
        runs: `losses`, `given`, `true` and `meta_class`, [n] each, and `centers` [K] of runs of one method.
    """
    losses, given, true, meta_class = of_seen(runs, "losses", "given", "true", "meta_class")
    by_class = given.max() < _NAMED
    group = given if by_class else meta_class
    labels = [str(c) for c in range(given.max() + 1)] if by_class else meta_class_names(runs[0]["centers"])
    bins = np.linspace(0, max(float(np.quantile(losses, 0.999)), 1e-6), 61)
    parts = (
        (_right_name(runs, given != true), given == true, _RIGHT),
        ("wrong", given != true, _WRONG),
    )
    for place, _ in enumerate(labels):
        bottom, size = -float(place), max(int(np.sum(group == place)), 1)
        counts = [np.histogram(losses[(group == place) & chosen], bins)[0] for _, chosen, _ in parts]
        heights = np.sqrt(np.cumsum(counts, axis=0) / size)  # of right labels, and of all, stacked
        base = np.zeros(len(bins) - 1)
        for (name, chosen, color), height in zip(parts, heights, strict=True):
            top = 0.9 * height / max(heights.max(), 1e-9)
            if chosen.any():
                label = None if place else name
                axes.stairs(bottom + top, bins, baseline=bottom + base, fill=True, color=color, label=label)
            base = top
    axes.set(xlabel="loss in the last epoch (nats)", xlim=(0, bins[-1]))
    axes.set_ylabel(f"given class{'' if by_class else 'es that are'} (height: share of examples, root scale)")
    axes.set_yticks(
        [-float(place) for place in range(len(labels))], [label.replace(" (", "\n(") for label in labels]
    )
    _legend_above(axes, "examples whose given label is")


def draw_confusion(axes: Axes, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """Confusion matrix as shares of the true class; colours follow the square root, so that rare errors show.

    Args:
        axes: where to draw.
        confusion: [C, C] int; rows are true classes, columns predicted ones.
        class_names: C names.
    """
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    _draw_shares(axes, percent, class_names, columns="predicted class")


def draw_transition(axes: Axes, transition: np.ndarray, class_names: Sequence[str]) -> None:
    """P(given | true), drawn as in `draw_confusion`.

    Args:
        axes: where to draw.
        transition: [C, C] float; rows are true classes, columns given ones; rows sum to one.
        class_names: C names.
    """
    _draw_shares(axes, 100 * transition, class_names, columns="given class")


def _draw_shares(axes: Axes, percent: np.ndarray, class_names: Sequence[str], columns: str) -> None:
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.figure.colorbar(
        image, ax=axes, label="share of the true class (%)", shrink=0.8, ticks=(0, 1, 10, 25, 50, 100)
    )
    axes.set(xlabel=columns, ylabel="true class")
    axes.spines[:].set_visible(False)
    if len(percent) <= _NAMED:
        names = [literal(name if len(name) <= 20 else f"{name[:19]}…") for name in class_names]
        upright, size = max(map(len, names)) > 2, 10 if len(names) <= _NUMBERED else 8
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    if len(percent) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(percent):
            if share:
                color = "white" if share > 35 else "black"
                axes.text(column, row, f"{share:.0f}", color=color, ha="center", va="center", fontsize=8)


def _legend_above(axes: Axes, title: str) -> None:
    """A legend above the axes, where it cannot cover the plot."""
    axes.legend(title=title, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), alignment="left")


def pixels(figure: Figure) -> np.ndarray:
    """[height, width, 3] uint8, the figure as rendered when saved."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
