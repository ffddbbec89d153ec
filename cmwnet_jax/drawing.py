"""What runs learned, drawn into axes: for the report's figures and for a run's own pictures.

Everything is drawn from the arrays of a run's weights.npz (`train.result.weight_arrays`), so that a
run can be looked at while it goes on as it is when it is done. No JAX, and none of pyplot's global
state: safe in the middle of training.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every kind of colour vision; line styles repeat it in grey.
_META_CLASS_STYLES = (
    ("#0072B2", "-"),
    ("#009E73", "--"),
    ("#D55E00", "-."),
    ("#CC79A7", ":"),
    ("#000000", "-"),
)
_RIGHT, _WRONG = "#56B4E9", "#E69F00"
_NAMES_BY_COUNT = {1: ("all",), 2: ("small", "large"), 3: ("small", "moderate", "large")}
_NUMBERED = 12  # classes up to which a confusion matrix has room for its numbers
_NAMED = 20  # and for the names of its classes

STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
"""Matplotlib's settings under which these functions are meant to be called."""

Arrays = Mapping[str, np.ndarray]


def meta_class_names(centers: Sequence[float]) -> list[str]:
    """A name with its centre for each meta-class, e.g. `small (about 14 examples)`."""
    count = len(centers)
    names = _NAMES_BY_COUNT.get(count, tuple(f"meta-class {k + 1} of {count}" for k in range(count)))
    return [f"{name} (about {center:.0f} examples)" for name, center in zip(names, centers, strict=True)]


def draw_weighting_functions(axes: Axes, runs: Sequence[Arrays]) -> None:
    """The K weighting functions over the loss: the runs' mean, each run faintly (Fig. 2c, above).

    Args:
        axes: where to draw.
        runs: `grid` [g], `functions` [K, g] and `centers` [K] of runs of one method with the same K.
    """
    # Only as far as every run's weight net has seen losses: beyond that it is extrapolation.
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
    """Weights of rightly and wrongly labelled examples, each as a share of its own (Fig. 2c, below).

    Args:
        axes: where to draw.
        runs: `weights`, `given` and `true`, [n] each, of runs of one method; they are pooled.
    """
    weights = np.concatenate([run["weights"] for run in runs])
    wrong = np.concatenate([run["given"] != run["true"] for run in runs])
    bins = np.linspace(0, 1, 41)
    right = "right" if wrong.any() else "not known to be wrong"
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


def draw_confusion(axes: Axes, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """Which class was taken for which, as shares of the true class; the root's scale, so that few errors show.

    Args:
        axes: where to draw.
        confusion: [C, C] int, a row a true class, a column a predicted one.
        class_names: C names.
    """
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.figure.colorbar(
        image, ax=axes, label="share of the true class (%)", shrink=0.8, ticks=(0, 1, 10, 25, 50, 100)
    )
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    if len(percent) <= _NAMED:
        names = [name if len(name) <= 20 else f"{name[:19]}…" for name in class_names]
        upright, size = max(map(len, names)) > 2, 10 if len(names) <= _NUMBERED else 8
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    if len(percent) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(percent):
            if confusion[row, column]:
                color = "white" if share > 35 else "black"
                axes.text(column, row, f"{share:.0f}", color=color, ha="center", va="center", fontsize=8)


def _legend_above(axes: Axes, title: str) -> None:
    """Outside of the axes, where it cannot cover what is drawn."""
    axes.legend(title=title, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), alignment="left")


def pixels(figure: Figure) -> np.ndarray:
    """[height, width, 3] uint8, the figure as it would be saved."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
