"""Figures in the manner of the paper's, for print and screen, colour-blind safe."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from cmwnet_jax.report.runs import Run

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

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


def meta_class_names(centers: Sequence[float]) -> list[str]:
    """A name with its centre for each meta-class, e.g. `small (about 14 examples)`."""
    count = len(centers)
    names = _NAMES_BY_COUNT.get(count, tuple(f"meta-class {k + 1} of {count}" for k in range(count)))
    return [f"{name} (about {center:.0f} examples)" for name, center in zip(names, centers, strict=True)]


def draw_weighting_functions(axes: Axes, runs: Sequence[Run]) -> None:
    """The K weighting functions over the loss: the runs' mean, each run faintly (Fig. 2c, above).

    Args:
        axes: where to draw.
        runs: runs of one method with the same K.
    """
    # Only as far as every run's weight net has seen losses: beyond that it is extrapolation.
    top = min(float(run.weights["grid"][-1]) for run in runs)
    grid = np.linspace(0, top, 200)
    curves = np.array(
        [[np.interp(grid, run.weights["grid"], f) for f in run.weights["functions"]] for run in runs]
    )
    names = meta_class_names(np.mean([run.weights["centers"] for run in runs], axis=0))
    for k, name in enumerate(names):
        color, style = _META_CLASS_STYLES[k % len(_META_CLASS_STYLES)]
        axes.plot(grid, curves[:, k].T, color=color, linewidth=0.6, alpha=0.3)
        axes.plot(grid, curves[:, k].mean(axis=0), color=color, linestyle=style, linewidth=2.2, label=name)
    axes.set(xlabel="loss (nats)", ylabel="weight", xlim=(0, top), ylim=(0, 1))
    _legend_above(axes, "given classes that are")


def draw_weight_histogram(axes: Axes, runs: Sequence[Run]) -> None:
    """Weights of rightly and wrongly labelled examples, each as a share of its own (Fig. 2c, below).

    Args:
        axes: where to draw.
        runs: runs of one method; their last epochs' examples are pooled.
    """
    weights = np.concatenate([run.weights["weights"] for run in runs])
    wrong = np.concatenate([run.weights["given"] != run.weights["true"] for run in runs])
    bins = np.linspace(0, 1, 41)
    for chosen, color, hatch, name in ((~wrong, _RIGHT, None, "right"), (wrong, _WRONG, "///", "wrong")):
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


def _legend_above(axes: Axes, title: str) -> None:
    """Outside of the axes, where it cannot cover what is drawn."""
    axes.legend(title=title, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), alignment="left")


def save_weighting_figure(columns: Sequence[tuple[str, Sequence[Run]]], path: Path) -> None:
    """One column a method: its weighting functions, and under them its weights' histogram.

    Args:
        columns: (title, runs) of each method.
        path: a PNG file, written at 150 dots an inch.
    """
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = plt.figure(figsize=(4.6 * len(columns), 7.6), layout="constrained")
        for part, (title, runs) in zip(
            figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True
        ):
            part.suptitle(title, fontweight="bold")
            functions, histogram = part.subplots(2, 1)
            draw_weighting_functions(functions, runs)
            draw_weight_histogram(histogram, runs)
        figure.savefig(path, dpi=150)
        plt.close(figure)
