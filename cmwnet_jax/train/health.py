"""Checks that a run is healthy: finds NaN, infinities and all-zero weights, and says where they arose."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import TrainingDiverged

_META = ("meta_loss", "meta_grad_norm")
_TINY = float(np.finfo(np.float32).tiny)
_NAMED = 8  # most ids that a message lists


def scalar_means(scalars: Mapping[str, np.ndarray], is_meta: np.ndarray) -> dict[str, float]:
    """Averages metrics over an epoch. Metrics of meta steps are averaged over these alone; NaN if none.

    Args:
        scalars: metrics by name, [steps] float each.
        is_meta: [steps] bool, true where the weight net learned.
    """
    chosen = {name: values[is_meta] if name in _META else values for name, values in scalars.items()}
    return {name: float(np.mean(values)) if len(values) else float("nan") for name, values in chosen.items()}


def check_steps(
    scalars: Mapping[str, np.ndarray],
    losses: np.ndarray,
    weights: np.ndarray,
    *,
    ids: np.ndarray,
    is_meta: np.ndarray,
    first_step: int,
    may_weigh_nothing: bool = False,
) -> None:
    """Raises if a step's metrics are NaN or infinite, or all its weights are 0.

    Args:
        scalars: metrics by name, [steps] float each; `meta_loss` and `meta_grad_norm` are checked on meta
            steps alone.
        losses: [steps, n] float.
        weights: [steps, n] float.
        ids: [steps, n] int, the examples' rows in the data set's training split.
        is_meta: [steps] bool, true where the weight net learned.
        first_step: number of the first of these steps in the run.
        may_weigh_nothing: whether it is normal that all weights of a batch are 0, as in L2RW.

    Raises:
        TrainingDiverged: names the earliest such step, the quantity, and the ids of the examples.
    """
    all_zero = np.sum(np.abs(weights), axis=1, dtype=np.float64) < _TINY
    all_zero &= not may_weigh_nothing
    bad = {"the losses": ~np.isfinite(losses).all(axis=1), "the weights": ~np.isfinite(weights).all(axis=1)}
    for name, values in scalars.items():
        bad[name] = ~np.isfinite(values) & (is_meta if name in _META else True)
    step = int(np.argmax(broken := np.any([all_zero, *bad.values()], axis=0)))
    if not broken.any():
        return
    where = f"at step {first_step + step}"
    for name, values in (("the losses", losses[step]), ("the weights", weights[step])):
        if bad[name][step]:
            chosen = ~np.isfinite(values)
            examples = f"on the training examples {_listed(ids[step][chosen])}"
            raise TrainingDiverged(f"{name} have become {values[chosen][0]} {where}, {examples}")
    batch = f"whose batch is of the training examples {_listed(ids[step])}"
    if all_zero[step]:
        raise TrainingDiverged(f"the weights are all 0 {where}, {batch}")
    name = next(name for name in scalars if bad[name][step])
    raise TrainingDiverged(f"{name} has become {scalars[name][step]} {where}, {batch}")


def share_outside(losses: np.ndarray, loss_range: tuple[float, float]) -> float:
    """Computes the share of losses, in [0, 1], outside the range that a weight net was trained on.

    Args:
        losses: float, any shape.
        loss_range: the lowest and the highest loss that it was trained on.
    """
    low, high = loss_range
    return float(np.mean((losses < low) | (losses > high)))


def warn_of_extrapolation(epoch: int, share: float, loss_range: tuple[float, float]) -> None:
    """Warns on stderr that a frozen weight net extrapolates to losses that it was not trained on.

    Args:
        epoch: the epoch's number, from 0.
        share: the share of the epoch's losses outside the range, in [0, 1].
        loss_range: the lowest and the highest loss that it was trained on.
    """
    low, high = loss_range
    print(
        f"warning: epoch {epoch + 1}: {100 * share:.2g}% of the losses lie outside of {low:.3g} to {high:.3g}, "
        "what the frozen weight net has learned from: their weights are extrapolated (for later epochs, see "
        "loss_share_outside_range in metrics.jsonl)",
        file=sys.stderr,
        flush=True,
    )


def check_test_losses(losses: np.ndarray, steps_done: int) -> None:
    """Raises if a test loss is NaN or infinite, since the epoch's last update has then broken the classifier.

    Args:
        losses: [N] float, the losses of the test examples.
        steps_done: steps of the run so far.

    Raises:
        TrainingDiverged: names the step and the examples.
    """
    chosen = ~np.isfinite(losses)
    if chosen.any():
        raise TrainingDiverged(
            f"the test losses have become {losses[chosen][0]} with the update of step {steps_done - 1}, "
            f"on the test examples {_listed(np.flatnonzero(chosen))}"
        )


def check_state(state: PyTree, steps_done: int) -> None:
    """Raises if an array of the state contains NaN or an infinity, so that it should not be saved.

    Args:
        state: the unreplicated state.
        steps_done: steps of the run so far.

    Raises:
        TrainingDiverged: names the first such array.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise TrainingDiverged(
                f"state{jax.tree_util.keystr(path)} has become NaN or infinite by step {steps_done - 1}"
            )


def _listed(ids: np.ndarray) -> str:
    """Formats ids, e.g. `3, 5, 8`; of many, only the first eight and the number of the others."""
    listed = ", ".join(str(i) for i in ids[:_NAMED])
    return f"{listed}" if len(ids) <= _NAMED else f"{listed} and {len(ids) - _NAMED} more"


@contextlib.contextmanager
def naming_the_last_checkpoint(folder: Path) -> Iterator[None]:
    """Adds the last good checkpoint to the message of a TrainingDiverged raised inside this context.

    Args:
        folder: the folder of the run's checkpoints, one numbered subfolder each; all must be written by the
            end of this context.
    """
    try:
        yield
    except TrainingDiverged as error:
        numbers = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        kept = f"the last good checkpoint is kept, {folder / str(max(numbers))}" if numbers else ""
        raise TrainingDiverged(
            f"{error}; {kept or 'no checkpoint had been written yet'}. The same config would come to the same "
            f"end: change it (a lower optimizer.learning_rate, as a rule) and train into another folder"
        ) from None
