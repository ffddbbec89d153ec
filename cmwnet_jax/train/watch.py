"""A run's TensorBoard events: its numbers each epoch, and pictures of what it has learned now and then."""

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
    """Events in a folder, each at the number of its epoch. A context manager.

    Written at once: tensorboardX's `SummaryWriter` hands events to a thread, and waits for that for ever
    where the disk is full.
    """

    def __init__(self, folder: Path, first_epoch: int):
        """Opens a file of its own in the folder, beside those of the launches before.

        Args:
            folder: made where it is missing.
            first_epoch: what an earlier launch wrote of this epoch and later ones, TensorBoard drops: the run
                goes on from a checkpoint that is older than they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix keeps launches apart that begin within one second, which is all that file names tell.
        self._writer = EventsWriter(str(folder / "events"), f".from_epoch_{first_epoch:06d}")
        self._write(first_epoch, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()

    def add_metrics(self, metrics: dict) -> None:
        """Writes one epoch's line of metrics; a list's entries one by one, nothing for what is unknown."""
        self._summarize(metrics["epoch"], [summary.scalar(*pair) for pair in scalars(metrics).items()])

    def add_pictures(
        self, epoch: int, weights: drawing.Arrays, confusion: np.ndarray, class_names: Sequence[str]
    ) -> None:
        """Draws what the run has learned by the end of an epoch.

        Args:
            epoch: its number.
            weights: what weights.npz would hold; without `functions` nothing of the weights is drawn.
            confusion: [C, C] int, of the test split.
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
    """Whether something happens at the end of an epoch; never where `every_epochs` is 0."""
    return every_epochs > 0 and (epoch + 1) % every_epochs == 0


def scalars(metrics: dict) -> dict[str, float]:
    """TensorBoard's names, in groups, and values of an epoch's metrics that are numbers."""
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
    """[height, width, 3] uint8 by name; arguments as those of `Board.add_pictures`."""
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
        drawing.draw_confusion(axes, confusion, class_names)
        drawn["test/confusion"] = drawing.pixels(figure)
    return drawn


def _figure(width: float, height: float, title: str):
    """A figure of one axes, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure, figure.subplots()
