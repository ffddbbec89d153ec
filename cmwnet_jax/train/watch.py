"""A run's TensorBoard events: metrics of every epoch, and occasional plots."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cmwnet_jax import drawing

_GROUPS = {"test": "test", "weight": "weights", "meta": "meta"}


class Board:
    """Writes TensorBoard events, with the epoch as their step. A context manager.

    Events are written synchronously: tensorboardX's `SummaryWriter` uses a thread and waits for it forever if
    the disk is full.
    """

    def __init__(self, folder: Path, first_epoch: int):
        """Opens a new events file beside those of earlier launches.

        Args:
            folder: the folder of the events; created if missing.
            first_epoch: the epoch that this launch resumes from. TensorBoard drops events of earlier launches
                from this epoch on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix tells launches apart that begin within the same second, the resolution of file names.
        self._writer = EventsWriter(str(folder / "events"), f".from_epoch_{first_epoch:06d}")
        self._write(first_epoch, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()

    def add_metrics(self, metrics: dict) -> None:
        """Writes an epoch's metrics: each list entry separately, and nothing for unknown values."""
        self._summarize(metrics["epoch"], [summary.scalar(*pair) for pair in scalars(metrics).items()])

    def add_pictures(
        self, epoch: int, weights: drawing.Arrays, confusion: np.ndarray, class_names: Sequence[str]
    ) -> None:
        """Draws the weighting functions, weights and confusion matrix at the end of an epoch.

        Args:
            epoch: the epoch's number.
            weights: the arrays of weights.npz; without `functions`, no weights are drawn.
            confusion: [C, C] int, on the test split.
            class_names: C names.
        """
        drawn = pictures(epoch, weights, confusion, class_names)
        self._summarize(epoch, [summary.image(*pair, dataformats="HWC") for pair in drawn.items()])

    def _summarize(self, epoch: int, summaries: Sequence[Summary]) -> None:
        self._write(epoch, summary=Summary(value=[value for part in summaries for value in part.value]))

    def _write(self, epoch: int, **content: Summary | SessionLog) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=epoch, **content))
        self._writer.flush()


def is_due(epoch: int, every_epochs: int) -> bool:
    """Whether something is due at the end of an epoch; never if `every_epochs` is 0."""
    return every_epochs > 0 and (epoch + 1) % every_epochs == 0


def scalars(metrics: dict) -> dict[str, float]:
    """Maps an epoch's numeric metrics to TensorBoard tags, in groups."""
    named = {}
    for name, value in metrics.items():
        tag = f"{_GROUPS.get(name.split('_')[0], 'train')}/{name}"
        if isinstance(value, list | tuple):
            named |= {f"{tag}/{i}": entry for i, entry in enumerate(value)}
        elif name != "epoch":
            named[tag] = value
    return {tag: float(value) for tag, value in named.items() if value is not None and np.isfinite(value)}


def pictures(
    epoch: int, weights: Mapping[str, np.ndarray], confusion: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Draws plots, [height, width, 3] uint8 by name; arguments as in `Board.add_pictures`."""
    drawn = {}
    with matplotlib.rc_context(drawing.STYLE):
        if "functions" in weights:
            figure, axes = _figure(5, 4.4, f"weighting functions after epoch {epoch + 1}")
            drawing.draw_weighting_functions(axes, [weights])
            drawn["weights/functions"] = drawing.pixels(figure)
            figure, axes = _figure(5, 4.4, f"weights in epoch {epoch + 1}")
            drawing.draw_weight_histogram(axes, [weights])
            axes.set_xlabel("weight")
            drawn["weights/histogram"] = drawing.pixels(figure)
        figure, axes = _figure(6, 5.2, f"test split after epoch {epoch + 1}")
        drawing.add_share_bar(drawing.draw_confusion(axes, confusion, class_names), [axes])
        drawn["test/confusion"] = drawing.pixels(figure)
    return drawn


def _figure(width: float, height: float, title: str):
    """Makes a figure with one axes; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure, figure.subplots()
