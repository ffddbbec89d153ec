"""Plots of what runs learned, drawn into given axes: for the report and for a run's own pictures.

Everything is drawn from the arrays of a run's weights.npz (`train.result.weight_arrays`), so an unfinished run
can be plotted like a finished one. Uses neither JAX nor the global state of pyplot, so it is safe during
training.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

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
LINE_STYLES = ("-", "--", "-.", ":")
"""Line styles, to tell more lines apart than there are colours, or to do so without colours."""
_RIGHT, _WRONG = "#56B4E9", "#E69F00"
_NAMES_BY_COUNT = {1: ("all",), 2: ("small", "large"), 3: ("small", "moderate", "large")}
_NUMBERED = 12  # largest number of classes for which a confusion matrix shows its numbers
_NAMED = 20  # and the names of its classes

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
"""Matplotlib settings to use with these functions."""

NOTE = {"fontsize": 8, "color": "#555555"}
"""Style of a remark."""

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


def seeds(count: int) -> str:
    """E.g. `5 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"


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


def largest_loss(runs: Sequence[Arrays]) -> float:
    """The largest loss that every run's weight net has seen; beyond it, some would extrapolate.

    Args:
        runs: `grid` [g] of each.
    """
    return min(float(run["grid"][-1]) for run in runs)


def draw_weighting_functions(axes: Axes, runs: Sequence[Arrays]) -> None:
    """The K weighting functions over the loss: their mean, and each run as a faint line (Fig. 2c, top).

    Args:
        axes: where to draw.
        runs: `grid` [g], `functions` [K, g] and `centers` [K] of runs of one method with the same K. A
            function of NaN is left out.
    """
    top = largest_loss(runs)
    grid = np.linspace(0, top, 200)
    curves = np.array([[np.interp(grid, run["grid"], f) for f in run["functions"]] for run in runs])
    names = meta_class_names(np.mean([run["centers"] for run in runs], axis=0))
    for k, name in enumerate(names):
        own = curves[~np.isnan(curves[:, k]).all(axis=1), k]
        if not len(own):
            continue
        color, style = _META_CLASS_STYLES[k % len(_META_CLASS_STYLES)]
        axes.plot(grid, own.T, color=color, linewidth=0.6, alpha=0.3)
        axes.plot(grid, own.mean(axis=0), color=color, linestyle=style, linewidth=2.2, label=name)
    axes.set(xlabel="loss (nats)", ylabel="weight", xlim=(0, top), ylim=(0, 1))
    _legend_above(axes, "size of the given class")


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
    top = largest_loss(runs)
    losses, meta_class = of_seen(runs, "losses", "meta_class")
    bins = np.linspace(0, top, 61)
    for k in range(len(runs[0]["centers"])):
        chosen = losses[meta_class == k]
        if len(chosen):
            color, style = _META_CLASS_STYLES[k % len(_META_CLASS_STYLES)]
            share = np.full(len(chosen), 100 / len(chosen))
            axes.hist(chosen, bins, weights=share, histtype="step", color=color, linestyle=style, linewidth=1.6)
    axes.set(xlabel="loss in the last epoch (nats)", xlim=(0, top))
    axes.set(ylabel="share of each\nsize (%)", yscale="log")


def largest_drawn_loss(runs: Sequence[Arrays]) -> float:
    """Right end of `draw_loss_densities`; few losses are larger."""
    return max(float(np.quantile(*of_seen(runs, "losses"), 0.999)), 1e-6)


def draw_loss_densities(
    axes: Axes, runs: Sequence[Arrays], class_names: Sequence[str], largest: float | None = None
) -> None:
    """Histograms of the losses, one line per given class, for right and wrong labels separately (Fig. 13a).

    With more than 20 classes, one line per meta-class.

    Args:
        axes: where to draw.
        runs: `losses`, `given`, `true` and `meta_class`, [n] each, and `centers` [K] of runs of one method.
        class_names: C names.
        largest: right end, for several panels; None for that of these runs.
    """
    losses, given, true, meta_class = of_seen(runs, "losses", "given", "true", "meta_class")
    by_class = len(class_names) <= _NAMED
    group = given if by_class else meta_class
    labels = _shortened(class_names) if by_class else meta_class_names(runs[0]["centers"])
    bins = np.linspace(0, largest or largest_drawn_loss(runs), 61)
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
    axes.set_ylabel("given class" if by_class else "size of the given class")
    axes.set_yticks([-float(place) for place in range(len(labels))])
    axes.set_yticklabels(labels if by_class else [label.replace(" (", "\n(") for label in labels])
    _legend_above(axes, "examples whose given label is")


def draw_confusion(axes: Axes, confusion: np.ndarray, class_names: Sequence[str]) -> AxesImage:
    """Confusion matrix as shares of the true class; colours follow the square root, so that rare errors show.

    Args:
        axes: where to draw.
        confusion: [C, C] int; rows are true classes, columns predicted ones.
        class_names: C names.

    Returns:
        The image, for `add_share_bar`.
    """
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return _draw_shares(axes, percent, class_names, columns="predicted class")


def draw_transition(axes: Axes, transition: np.ndarray, class_names: Sequence[str]) -> AxesImage:
    """P(given | true), drawn as in `draw_confusion`.

    Args:
        axes: where to draw.
        transition: [C, C] float; rows are true classes, columns given ones; rows sum to one.
        class_names: C names.
    """
    return _draw_shares(axes, 100 * transition, class_names, columns="given class")


def add_share_bar(image: AxesImage, axes: Sequence[Axes]) -> None:
    """The colour bar of `draw_confusion` and `draw_transition`, once for several axes.

    Args:
        image: of one of them.
        axes: all of them.
    """
    bar = {"label": "share of the true class (%)", "shrink": 0.8, "ticks": (0, 1, 10, 25, 50, 100)}
    image.figure.colorbar(image, ax=axes, **bar)


def _draw_shares(axes: Axes, percent: np.ndarray, class_names: Sequence[str], columns: str) -> AxesImage:
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.set(xlabel=columns, ylabel="true class")
    axes.spines[:].set_visible(False)
    if len(percent) <= _NAMED:
        names = _shortened(class_names)
        upright, size = max(map(len, names)) > 2, 10 if len(names) <= _NUMBERED else 8
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    if len(percent) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(percent):
            if share:
                color = "white" if share > 35 else "black"
                text = f"{share:.0f}" if share >= 1 else "<1"
                axes.text(column, row, text, color=color, ha="center", va="center", fontsize=8)
    return image


def _shortened(class_names: Sequence[str]) -> list[str]:
    return [literal(name if len(name) <= 20 else f"{name[:19]}…") for name in class_names]


def _legend_above(axes: Axes, title: str) -> None:
    """A legend above the axes, where it cannot cover the plot."""
    axes.legend(title=title, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), alignment="left")


def pixels(figure: Figure) -> np.ndarray:
    """[height, width, 3] uint8, the figure as rendered when saved."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
