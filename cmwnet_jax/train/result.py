"""What is left of a run: its weights as arrays, its numbers as a summary."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.array_facts import to_host
from cmwnet_jax.runs.arrays import read_arrays, read_confidences
from cmwnet_jax.runs.stored import AVERAGED, IN_WARMUP, LAST_EPOCHS
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build_data import Data
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.methods import kind_of
from cmwnet_jax.train.metrics import after_warmup, last_epochs_mean
from cmwnet_jax.train.run_folder import RunFolder
from cmwnet_jax.train.scores import class_accuracy_percent
from cmwnet_jax.transfer import SavedWeightNet
from cmwnet_jax.types import PyTree


def weight_arrays(
    data: Data, rows: np.ndarray, losses: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The last epoch's weight of each training example, for weights.npz.

    An epoch leaves out its last partial batch: of these examples `seen` is False, and `losses` and `weights`
    are NaN. Runs of older versions have rows of the others alone, and no `seen`.

    Args:
        data: the run's, of N examples.
        rows: [n] int, the training examples that the epoch visited, each once.
        losses: [n] float, what the weight net saw of them.
        weights: [n] float, what it gave them.

    Returns:
        [N] each but for `centers` [K] and `truth_known`, a bool.
    """
    given = data.biased.given
    arrays = {
        "ids": data.biased.ids,
        "given": given,
        "true": data.biased.true,
        "truth_known": np.array(data.biased.truth_known),
        "meta_class": data.meta_classes.of_class[given],
        "centers": data.meta_classes.centers,
        "seen": np.zeros(len(given), bool),
    }
    arrays["seen"][rows] = True
    for name, values in (("losses", losses), ("weights", weights)):
        arrays[name] = np.full(len(given), np.nan, values.dtype)
        arrays[name][rows] = values
    return arrays


def confidence_rows(data: Data, confidences: np.ndarray) -> np.ndarray:
    """[training split, C] float32 for confidences.npy: rows by id, zeros where an example was left out.

    Args:
        data: the run's.
        confidences: [N, C] float, of the run's examples.
    """
    rows = np.zeros((len(data.true_labels), data.source.num_classes), np.float32)
    rows[data.biased.ids] = confidences
    return rows


def _transductive(data: Data, folder: Path) -> dict:
    """How often a training example's most confident candidate is the true one; nothing for single labels."""
    if data.biased.candidates is None or not data.biased.truth_known:
        return {}
    confidences = read_confidences(folder)[data.biased.ids]
    right = np.argmax(confidences, axis=1) == data.biased.true
    return {"transductive_accuracy_percent": float(100 * np.mean(right))}


def saved_weight_net(
    config: ConfigDict,
    data: Data,
    weight_params: PyTree,
    history: list[dict],
    epochs_done: int,
    before: SavedWeightNet | None = None,
) -> SavedWeightNet | None:
    """The weight net as it is saved with a checkpoint; None before it has learned anything, and if frozen.

    Its losses are those of this run and, where it started from another, of that one too.

    Args:
        config: the run's.
        data: the run's.
        weight_params: the weight net's parameters.
        history: every epoch's metrics so far; of the epoch under way, the number and `loss_min` and
            `loss_max`.
        epochs_done: whole epochs.
        before: what it started from; None for a random one.
    """
    learned = [
        line for line in history if line["epoch"] >= config.warmup_epochs and line["loss_max"] is not None
    ]
    kind = kind_of(config)
    if not (kind.has_weight_net and kind.learns_weights and learned):
        return None
    ranges = [(line["loss_min"], line["loss_max"]) for line in learned]
    lows, highs = zip(*ranges, *([] if before is None else [before.loss_range]), strict=True)
    provenance = {
        "dataset": config.data.name,
        "bias": data.record.name,
        "num_examples": len(data.biased.ids),
        "class_counts": data.biased.class_counts.tolist(),
        "meta_class_of_class": data.meta_classes.of_class.tolist(),
        "method": config.method,
        "class_feature": config.weight_net.class_feature,
        "loss": config.loss.name,
        "model": config.model.name,
        "normalize": "mean" if kind_of(config).has_teacher else config.weight_net.normalize,  # Q2
        "seed": config.seed,
        "init": config.weight_net.init,
        "epochs_done": epochs_done,
        "versions": {"jax": jax.__version__},
    }
    return SavedWeightNet(
        to_host(weight_params), data.meta_classes.centers, (min(lows), max(highs)), provenance
    )


def summarize(config: ConfigDict, data: Data, folder: RunFolder, clock: Clock) -> dict:
    """What result.json holds: the run's bias as it came out, and its honest numbers.

    Args:
        config: the run's.
        data: the run's.
        folder: the run's, with every epoch's metrics and the last one's evaluation.npz.
        clock: of this launch.
    """
    history, last = folder.metrics(), folder.metrics()[-1]
    counted = after_warmup(history, 0 if kind_of(config).from_candidates else config.warmup_epochs)
    return {
        "workdir": str(folder.path),
        "method": config.method,
        "class_feature": config.weight_net.class_feature,
        "dataset": config.data.name,
        "bias": data.record.name,
        "seed": config.seed,
        "num_examples": len(data.biased.ids),
        "wrong_rate": data.biased.wrong_rate,
        "class_counts": data.biased.class_counts,
        "meta_class_of_class": data.meta_classes.of_class,
        "meta_class_centers": data.meta_classes.centers,
        **{f"{name}_last": value for name, value in last.items() if name.startswith("test_")},
        "test_accuracy_percent_last10": last_epochs_mean(counted, "test_accuracy_percent"),
        "teacher_test_accuracy_percent_last10": last_epochs_mean(counted, "teacher_test_accuracy_percent"),
        "test_class_accuracy_percent_last": class_accuracy_percent(
            read_arrays(folder.path, "evaluation")["confusion"]
        ),
        **_transductive(data, folder.path),
        "weight_auc_last10": last_epochs_mean(counted, "weight_auc"),
        AVERAGED: min(len(counted), LAST_EPOCHS),
        IN_WARMUP: counted[-1]["epoch"] < config.warmup_epochs and not kind_of(config).from_candidates,
        **clock.summary(),
        "devices": parallel.describe(),
        "versions": {"jax": jax.__version__},
    }
