"""Figures in the manner of the paper's, for print and screen, colour-blind safe."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from cmwnet_jax import drawing
from cmwnet_jax.report.runs import Run


def save_weighting_figure(columns: Sequence[tuple[str, Sequence[Run]]], path: Path) -> None:
    """One column a method: its weighting functions, and under them its weights' histogram.

    Args:
        columns: (title, runs) of each method.
        path: a PNG file, written at 150 dots an inch.
    """
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(4.6 * len(columns), 7.6), layout="constrained")
        for part, (title, runs) in zip(
            figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True
        ):
            part.suptitle(title, fontweight="bold")
            functions, histogram = part.subplots(2, 1)
            arrays = [run.weights for run in runs]
            drawing.draw_weighting_functions(functions, arrays)
            drawing.draw_weight_histogram(histogram, arrays)
        figure.savefig(path, dpi=150)
