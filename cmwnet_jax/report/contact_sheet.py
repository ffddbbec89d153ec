"""A sheet of examples with their given labels and, where those are wrong, the true ones."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

_WRONG = "#D55E00"


def save_contact_sheet(rows: Sequence[tuple[np.ndarray, Sequence[str], Sequence[str]]], path: Path) -> None:
    """One row of pictures a class; wrong labels in vermilion with the true one after "is".

    Args:
        rows: (images [n, height, width, channels] uint8, given names [n], true names [n]) of each row.
        path: a PNG file, made with its folder, written at 110 dots an inch.
    """
    columns = max(len(images) for images, _, _ in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": 7}):
        figure = Figure(figsize=(1.05 * columns, 1.3 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (images, given, true) in zip(axes, rows, strict=True):
            for axis in line:
                axis.axis("off")
            for axis, image, label, truth in zip(line, images, given, true, strict=False):
                axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
                wrong = label != truth
                axis.set_title(
                    f"{label}\nis {truth}" if wrong else label,
                    color=_WRONG if wrong else "black",
                    fontweight="bold" if wrong else "normal",
                    pad=2,
                )
        figure.savefig(path, dpi=110)
