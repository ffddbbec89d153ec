"""An epoch under way: what it trains on, and what its steps have reported so far."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from cmwnet_jax.data.batches import Raw, Selection

_STEPS, _SELECTION = "steps_", "{}_set_"  # prefixes of names in a checkpoint, the second with the stream's name


@dataclasses.dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch and how far it has come.

    Attributes:
        number: from 0.
        main_stream: the stream whose examples the steps report on.
        rows: by stream, [num_steps, n] int32, each step's rows of the split or of the selection.
        is_meta: [num_steps] bool, in which steps weights are learned.
        selections: planned streams' examples, chosen with the parameters at the epoch's start.
        loaded: the same on the devices.
        reported: what the steps so far have reported, by name: [steps_done] float each, `losses` and
            `weights` [steps_done, n].
    """

    number: int
    main_stream: str
    rows: Mapping[str, np.ndarray]
    is_meta: np.ndarray
    selections: Mapping[str, Selection]
    loaded: Mapping[str, Raw]
    reported: Mapping[str, np.ndarray]

    @property
    def num_steps(self) -> int:
        """Steps of the whole epoch."""
        return len(self.is_meta)

    @property
    def main_rows(self) -> np.ndarray:
        """[num_steps, n] int32, rows of the split that the main stream is of."""
        rows = self.rows[self.main_stream]
        return self.selections[self.main_stream].rows[rows] if self.main_stream in self.selections else rows

    @property
    def steps_done(self) -> int:
        """Of its steps."""
        return len(self.reported["losses"]) if self.reported else 0

    @property
    def run_steps_done(self) -> int:
        """Of the run's steps."""
        return self.number * self.num_steps + self.steps_done

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.steps_done == self.num_steps

    @property
    def losses(self) -> np.ndarray:
        """[steps_done, n] float, what the weight net saw."""
        return self.reported["losses"]

    @property
    def weights(self) -> np.ndarray:
        """[steps_done, n] float, what it gave."""
        return self.reported["weights"]

    @property
    def scalars(self) -> dict[str, np.ndarray]:
        """[steps_done] float each, by name."""
        return {name: values for name, values in self.reported.items() if name not in ("losses", "weights")}

    def loss_range(self) -> dict[str, float]:
        """`loss_min` and `loss_max`, as the epoch's metrics have them."""
        return {"loss_min": float(np.min(self.losses)), "loss_max": float(np.max(self.losses))}

    def chunk(self, steps: int) -> slice:
        """The next steps: up to the next multiple of `steps` or the epoch's end.

        Args:
            steps: of a whole chunk.
        """
        return slice(self.steps_done, min((self.steps_done // steps + 1) * steps, self.num_steps))

    def extended(self, reported: Mapping[str, np.ndarray]) -> "Epoch":
        """The same, a chunk later.

        Args:
            reported: by name, of the chunk's steps alone.
        """
        before = self.reported or {name: values[:0] for name, values in reported.items()}
        joined = {name: np.concatenate([before[name], values]) for name, values in reported.items()}
        return dataclasses.replace(self, reported=joined)

    def arrays(self) -> dict[str, np.ndarray]:
        """What going on inside the epoch takes besides the state, the seed and the position."""
        chosen = {
            _SELECTION.format(stream) + name: values
            for stream, selection in self.selections.items()
            for name, values in selection._asdict().items()
        }
        return {
            **chosen,
            **{_STEPS + name: values for name, values in self.reported.items()},
        }


def saved_selection(stream: str, arrays: Mapping[str, np.ndarray]) -> Selection | None:
    """A stream's selection in what `Epoch.arrays` gave; None where there was none.

    Args:
        stream: its name.
        arrays: by name.
    """
    fields = _without(_SELECTION.format(stream), arrays)
    return Selection(**fields) if fields else None


def saved_reports(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`Epoch.reported` in what `Epoch.arrays` gave.

    Args:
        arrays: by name.
    """
    return _without(_STEPS, arrays)


def _without(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
