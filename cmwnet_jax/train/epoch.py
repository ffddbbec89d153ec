"""The running epoch: its examples, and the metrics that its steps have reported so far."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from cmwnet_jax.core.loss_history import LossHistory
from cmwnet_jax.data.batches import Raw, Selection
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.steps import PER_EXAMPLE

# Prefixes of names in a checkpoint; that of a selection contains the stream.
_STEPS, _SELECTION, _HISTORY, _MARGINS = "steps_", "{}_set_", "loss_history_", "margin_history_"
_LEAST_LOSS = 1e-7  # float32 rounds smaller cross-entropies to 0


@dataclasses.dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch and its progress.

    Attributes:
        number: the epoch's number, from 0.
        main_stream: the stream whose examples the steps report on.
        rows: stream -> [num_steps, n] int32, each step's rows of the split or, if planned, of the selection.
        is_meta: [num_steps] bool, true for the steps that learn weights.
        selections: planned stream -> its examples, selected with the parameters at the epoch's start.
        loaded: planned stream -> the same examples on the devices.
        reported: metrics of the steps done so far, by name: [steps_done] float each; those of `PER_EXAMPLE`
            are [steps_done, n].
        loss_history: the losses of all steps of the run so far, on the host.
        margin_history: the same of `margins` of these losses.
    """

    number: int
    main_stream: str
    rows: Mapping[str, np.ndarray]
    is_meta: np.ndarray
    selections: Mapping[str, Selection]
    loaded: Mapping[str, Raw]
    reported: Mapping[str, np.ndarray]
    loss_history: LossHistory
    margin_history: LossHistory

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole epoch."""
        return len(self.is_meta)

    @property
    def main_rows(self) -> np.ndarray:
        """[num_steps, n] int32, rows of the main stream's split."""
        rows = self.rows[self.main_stream]
        return self.selections[self.main_stream].rows[rows] if self.main_stream in self.selections else rows

    @property
    def steps_done(self) -> int:
        """Steps of this epoch done so far."""
        return len(self.reported["losses"]) if self.reported else 0

    @property
    def run_steps_done(self) -> int:
        """Steps of the whole run done so far."""
        return self.number * self.num_steps + self.steps_done

    @property
    def is_over(self) -> bool:
        """Whether all steps of the epoch are done."""
        return self.steps_done == self.num_steps

    @property
    def losses(self) -> np.ndarray:
        """[steps_done, n] float, the weight net's input."""
        return self.reported["losses"]

    @property
    def weights(self) -> np.ndarray:
        """[steps_done, n] float, the weight net's output."""
        return self.reported["weights"]

    @property
    def labels(self) -> np.ndarray | None:
        """[steps_done, n] int32, the labels that the steps chose; None if the examples have given ones."""
        return self.reported.get("labels")

    @property
    def scalars(self) -> dict[str, np.ndarray]:
        """Scalar metrics by name, [steps_done] float each."""
        return {name: values for name, values in self.reported.items() if name not in PER_EXAMPLE}

    def loss_range(self) -> dict[str, float]:
        """`loss_min` and `loss_max` of the steps so far, as in the epoch's metrics."""
        return {"loss_min": float(np.min(self.losses)), "loss_max": float(np.max(self.losses))}

    def chunk(self, steps: int) -> slice:
        """The slice of the next steps, up to the next multiple of `steps` or the end of the epoch.

        Args:
            steps: length of a full chunk.
        """
        return slice(self.steps_done, min((self.steps_done // steps + 1) * steps, self.num_steps))

    def extended(self, reported: Mapping[str, np.ndarray]) -> "Epoch":
        """Returns the epoch after one more chunk of steps.

        Args:
            reported: metrics of the chunk's steps alone, by name.
        """
        before = self.reported or {name: values[:0] for name, values in reported.items()}
        joined = {name: np.concatenate([before[name], values]) for name, values in reported.items()}
        losses = reported["losses"]
        rows = self.main_rows[self.steps_done :][: len(losses)]
        return dataclasses.replace(
            self,
            reported=joined,
            loss_history=self.loss_history.update(rows, losses),
            margin_history=self.margin_history.update(rows, margins(losses)),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays needed to resume, besides the state, the seed and the step number.

        At the epoch's end, only the histories are needed.
        """
        history = {
            prefix + name: getattr(kept, name)
            for prefix, kept in ((_HISTORY, self.loss_history), (_MARGINS, self.margin_history))
            for name in ("total", "count")
        }
        if self.is_over:
            return history
        chosen = {
            _SELECTION.format(stream) + name: values
            for stream, selection in self.selections.items()
            for name, values in selection._asdict().items()
        }
        return {
            **history,
            **chosen,
            **{_STEPS + name: values for name, values in self.reported.items()},
        }


def check_selections(
    selections: Mapping[str, Selection], planned: Mapping[str, int], read: Collection[str], epoch: int
) -> None:
    """Checks the selections of a method's plan; an input would clamp a wrong row to a valid one.

    Args:
        selections: the plan's selections, by stream.
        planned: planned stream of the method -> number of examples of its split.
        read: the planned streams that the epoch's phase reads.
        epoch: the epoch's number, for messages.

    Raises:
        UsageError: a stream that is read has no selection, a selection is for no planned stream, or its rows
            are none or not in its split.
    """
    if missing := sorted(set(read) - set(selections)):
        raise UsageError(
            f"plan_epoch chose no examples for the stream {missing[0]!r} in epoch {epoch}, expected a "
            f"Selection, since the phase reads this planned stream: return one, or set planned=False"
        )
    for name, (rows, labels) in selections.items():
        if name not in planned:
            raise UsageError(
                f"plan_epoch chose examples for {name!r}, expected a planned stream of the method "
                f"({', '.join(planned) or 'it has none'}): set planned=True for the stream"
            )
        if not len(rows) or len(rows) != len(labels) or np.min(rows) < 0 or np.max(rows) >= planned[name]:
            raise UsageError(
                f"plan_epoch chose {len(rows)} rows and {len(labels)} labels for the stream {name!r} in epoch "
                f"{epoch}, expected one row or more, from 0 to {planned[name] - 1}, and one label for each: "
                f"choose among the examples of its split"
            )


def margins(losses: np.ndarray) -> np.ndarray:
    """The soft margin of each loss, log(p / (1 - p)) with p = exp(-loss): at most 16.1.

    For cross-entropy, p is the given class's probability, and this is its logit minus the log-sum-exp of the
    other logits: the margin of Pleiss et al. 2020 (Identifying mislabeled data using the area under the margin
    ranking) with a soft maximum, which is larger than theirs by at most log(C - 1). For other losses it is a
    decreasing function of the loss.

    Args:
        losses: float of any shape.

    Returns:
        float64 of the same shape.

    Example:
        >>> margins(np.log([2.0, 4.0])).round(6).tolist()  # p = 1/2 and 1/4
        [0.0, -1.098612]
    """
    losses = np.maximum(losses.astype(np.float64), _LEAST_LOSS)
    return -losses - np.log(-np.expm1(-losses))


def saved_selection(stream: str, arrays: Mapping[str, np.ndarray]) -> Selection | None:
    """Reads a stream's selection from `Epoch.arrays`; None if there was none.

    Args:
        stream: the stream's name.
        arrays: the saved arrays, by name.
    """
    fields = _without(_SELECTION.format(stream), arrays)
    return Selection(**fields) if fields else None


def saved_reports(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reads `Epoch.reported` from `Epoch.arrays`.

    Args:
        arrays: the saved arrays, by name.
    """
    return _without(_STEPS, arrays)


def saved_history(arrays: Mapping[str, np.ndarray], num_examples: int) -> LossHistory:
    """Reads the loss history from `Epoch.arrays`; an empty one if there is none.

    There is none at the start of a run, and none in checkpoints of older versions: the history of a run that
    continues from one of these contains only the visits since then.

    Args:
        arrays: the saved arrays, by name.
        num_examples: N, the training examples.
    """
    return _saved_history(_HISTORY, arrays, num_examples)


def saved_margins(arrays: Mapping[str, np.ndarray], num_examples: int) -> LossHistory:
    """As `saved_history`, for `Epoch.margin_history`."""
    return _saved_history(_MARGINS, arrays, num_examples)


def _saved_history(prefix: str, arrays: Mapping[str, np.ndarray], num_examples: int) -> LossHistory:
    fields = _without(prefix, arrays)
    return LossHistory(**fields) if fields else LossHistory.create(num_examples, on_host=True)


def _without(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
