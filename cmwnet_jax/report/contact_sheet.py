"""Sheets of example images with their given and true labels, or with their corrected labels."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

_WRONG = "#D55E00"
_GIVEN, _NEW, _NOTE = "#C00000", "#0050B0", "#555555"  # the paper's red and blue, dark enough for print
_ACROSS = 8
_ON_A_SHEET = 5 * _ACROSS
_HEADING_INCHES = (6.8, 0.55)
_PITCH, _TEXT = 1.15, 0.44  # inches between images, and for the text above each
_POINTS = 7
_LITERAL = {"text.parse_math": False}  # a class name may contain $
_LETTERS = 24  # more never fit into a line


def save_contact_sheet(rows: Sequence[tuple[np.ndarray, Sequence[str], Sequence[str]]], path: Path) -> None:
    """One row of images per class; wrong labels are in bold vermilion, with the true one after "is".

    Args:
        rows: (images [n, height, width, channels] uint8, given names [n], true names [n]) for each row.
        path: a PNG file, written with 110 dots per inch; its folder is created if it is missing.
    """
    columns = max(len(images) for images, _, _ in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": _POINTS, **_LITERAL}):
        figure = Figure(figsize=(1.05 * columns, 1.3 * len(rows) + 0.3), layout="constrained")
        figure.suptitle("given labels; in bold: wrong ones")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (images, given, true) in zip(axes, rows, strict=True):
            for axis in line:
                axis.axis("off")
            for axis, image, label, truth in zip(line, images, given, true, strict=False):
                _show(axis, image)
                wrong = label != truth
                axis.set_title(
                    f"{label}\nis {truth}" if wrong else label,
                    color=_WRONG if wrong else "black",
                    fontweight="bold" if wrong else "normal",
                    pad=2,
                )
        figure.savefig(path, dpi=110)


def corrected_pages(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Divides the examples of corrected labels into sheets of 40, five rows of eight.

    Args:
        arrays: as in `save_corrected_sheet`.
    """
    own = ("images", "given", "new", "true")
    starts = range(0, len(arrays["given"]), _ON_A_SHEET)
    return [{**arrays, **{name: arrays[name][start : start + _ON_A_SHEET] for name in own}} for start in starts]


def save_corrected_sheet(arrays: Mapping[str, np.ndarray], title: str, path: Path) -> None:
    """Shows examples with the given label in red and the new one in blue below it (Fig. 6, 16, 17).

    If the truth is known, a third line says whether the new label is right, and otherwise gives the right one.
    The heading counts all changed labels, not only those on the sheet.

    Args:
        arrays: from a run's corrected.npz (`methods.corrections.correction_arrays`), at least one example.
        title: beginning of the heading.
        path: a PNG file, written with 150 dots per inch; its folder is created if it is missing.
    """
    names = [re.sub(r"^n\d{8} ", "", name) for name in arrays["class_names"]]  # without WordNet identifiers
    labels = [(names[given], names[new]) for given, new in zip(arrays["given"], arrays["new"], strict=True)]
    notes = [""] * len(labels)
    if arrays["truth_known"]:
        notes = [_verdict(new, true, names) for new, true in zip(arrays["new"], arrays["true"], strict=True)]
    save_two_label_sheet(list(arrays["images"]), labels, notes, _heading(arrays, title), path)


def save_two_label_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[tuple[str, str]],
    notes: Sequence[str],
    heading: str,
    path: Path,
) -> None:
    """Shows examples with a label in red and another in blue below it.

    Args:
        images: [height, width, channels] uint8 each, one or more; the first decides on the shape of the grid.
        labels: the two labels of each.
        notes: a third line for each; nothing is written for an empty one.
        heading: the sheet's heading, one or more lines.
        path: a PNG file, written with 150 dots per inch; its folder is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": _POINTS, **_LITERAL}):
        figure, axes = _grid(len(images), *images[0].shape[:2])
        figure.suptitle(heading, fontsize=8.5, y=1 - 0.06 / figure.get_figheight(), va="top")
        for axis, image, (red, blue), note in zip(axes, images, labels, notes, strict=False):
            _show(axis, image)
            _write_above(axis, [(red, _GIVEN), (f"→ {blue}", _NEW), *([(note, _NOTE)] if note else [])])
        figure.savefig(path, dpi=150)


def _grid(count: int, height: int, width: int) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes for `count` images of height x width pixels, each with room for three lines above it."""
    across = min(_ACROSS, count)
    down = -(-count // across)
    tall = np.clip(height / width, 0.5, 2)
    size = np.array([max(_HEADING_INCHES[0], _PITCH * across), _HEADING_INCHES[1] + (tall + _TEXT) * down])
    side = (size[0] - _PITCH * across + _PITCH - 1) / 2  # an image is an inch wide
    figure = Figure(figsize=size)
    axes = figure.subplots(
        down,
        across,
        squeeze=False,
        gridspec_kw={
            "left": side / size[0],
            "right": 1 - side / size[0],
            "top": 1 - (_HEADING_INCHES[1] + _TEXT - 0.05) / size[1],
            "bottom": 0.05 / size[1],
            "wspace": _PITCH - 1,
            "hspace": _TEXT / tall,
        },
    ).ravel()
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _write_above(axis: Axes, lines: Sequence[tuple[str, str]]) -> None:
    """Writes lines of (text, colour) above an image; notes are lighter than labels."""
    for place, (text, color) in enumerate(reversed(lines)):
        weight = "normal" if color == _NOTE else "bold"
        axis.annotate(
            _cut(text, weight),
            (0.5, 1),
            xycoords="axes fraction",
            xytext=(0, 2 + 8.5 * place),
            textcoords="offset points",
            ha="center",
            color=color,
            fontweight=weight,
        )


@functools.cache
def _cut(text: str, weight: str) -> str:
    """Shortens the text if it would reach into the next image's."""
    font = FontProperties(size=_POINTS, weight=weight)
    for letters in range(min(len(text), _LETTERS), 0, -1):
        shown = text if letters == len(text) else f"{text[:letters].rstrip()}…"
        if TextPath((0, 0), shown, prop=font).get_extents().width < 72 * _PITCH - _POINTS:
            return shown
    return "…"


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _heading(arrays: Mapping[str, np.ndarray], title: str) -> str:
    changed, labels = int(arrays["num_changed"]), int(arrays["num_labels"])
    shown = "some of each given class at random: given label above (red), new one below (blue)"
    if not arrays["truth_known"]:
        return f"{title}: {changed:,} of {labels:,} labels changed, whether rightly is not known\n{shown}"
    share, wrong = 100 * arrays["num_changed_rightly"] / changed, int(arrays["num_wrong"])
    return (
        f"{title}: {labels:,} labels, {wrong:,} of them wrong\n"
        f"{changed:,} changed, {share:.1f}% of these to the true one\n"
        f"{shown}, right (✓) or wrong (✗)"
    )


def _verdict(new: int, true: int, names: Sequence[str]) -> str:
    if new == true:
        return "✓"
    return f"✗ is {names[true]}" if true >= 0 else "✗ is of no class"
