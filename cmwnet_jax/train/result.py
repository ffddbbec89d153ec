"""The results of a run: its weights as arrays, and the summary in result.json."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import PyTree
from cmwnet_jax.data.also_test import AlsoTest
from cmwnet_jax.data.load import Data
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.base import Method
from cmwnet_jax.runs import stored
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.runs.stored import AVERAGED, IN_WARMUP, LAST_EPOCHS, METHOD_PLACE
from cmwnet_jax.train import parallel
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.epoch import Epoch
from cmwnet_jax.train.metrics import after_warmup, last_epochs_mean
from cmwnet_jax.train.scores import class_accuracy_percent


def weight_arrays(data: Data, meta_classes: MetaClasses, epoch: Epoch) -> dict[str, np.ndarray]:
    """The arrays of weights.npz: each training example's weight and losses.

    `losses` and `weights` are the weight net's input and output at the last visit of the last epoch. For the
    examples that it has not visited (it leaves out its last partial batch), `seen` is False, and both are NaN.
    If the steps choose the labels, `given` holds these. `mean_losses` are over all `visits` of the run, warm-up
    included, and NaN without a visit; so are `mean_margins`, of `epoch.margins`. Files of older versions have
    none of these three, or contain only the visited examples and have no `seen`.

    Args:
        data: the run's data, with N training examples.
        meta_classes: the method's meta-classes.
        epoch: the last epoch, finished.

    Returns:
        Arrays by name, [N] each except `centers` [K] and `truth_known`, a bool.
    """
    rows, losses, weights = (values.ravel() for values in (epoch.main_rows, epoch.losses, epoch.weights))
    given = data.biased.given.copy()
    if epoch.labels is not None:
        given[rows] = epoch.labels.ravel()
    arrays = {
        "ids": data.biased.ids,
        "given": given,
        "true": data.biased.true,
        "truth_known": np.array(data.biased.truth_known),
        "meta_class": meta_classes.of_class[given],
        "centers": meta_classes.centers,
        "seen": np.zeros(len(given), bool),
        "mean_losses": epoch.loss_history.mean.astype(np.float32),
        "mean_margins": epoch.margin_history.mean.astype(np.float32),
        "visits": epoch.loss_history.count,
    }
    arrays["seen"][rows] = True
    for name, values in (("losses", losses), ("weights", weights)):
        arrays[name] = np.full(len(given), np.nan, values.dtype)
        arrays[name][rows] = values
    return arrays


def learned_ranges(method: Method, history: list[dict]) -> list[tuple[float, float]]:
    """The lowest and the highest loss of each epoch in which examples were weighed.

    Args:
        method: the run's method.
        history: the metrics of every epoch so far; the running epoch needs only `epoch`, `loss_min` and
            `loss_max`.
    """
    return [
        (line["loss_min"], line["loss_max"])
        for line in history
        if line["loss_max"] is not None and method.phase(line["epoch"]).weighs
    ]


def weighting_arrays(
    method: Method, weight_params: PyTree, meta_classes: MetaClasses, history: list[dict]
) -> dict[str, np.ndarray]:
    """The weighting functions for weights.npz, on losses from 0 to the highest that was weighed.

    Args:
        method: the run's method.
        weight_params: the weight net's parameters.
        meta_classes: the run's.
        history: the metrics of every epoch.

    Returns:
        `grid` [200], the losses, and `functions` [K, 200], NaN for a head that no class uses; empty without a
        weight net or before it weighs.
    """
    ranges = learned_ranges(method, history)
    if method.weight_net is None or not ranges:
        return {}
    grid = jnp.linspace(0, max(high for _, high in ranges), 200)
    functions = np.array(method.weight_net.functions(weight_params, grid))
    functions[~meta_classes.is_used] = np.nan
    return {"grid": np.asarray(grid), "functions": functions}


def _also_test(second: AlsoTest | None, counted: list[dict]) -> dict:
    """What is known of the second test split; and the means of its accuracies, and of all top-5 accuracies."""
    if second is None:
        return {}
    tops = [name for name in counted[-1] if name.endswith("top5_percent")]
    accuracies = [name for name in counted[-1] if name.endswith(f"{second.name}_accuracy_percent")]
    return {
        stored.ALSO_TEST: second.name,
        f"{stored.ALSO_TEST}_examples": len(second.labels),
        f"{stored.ALSO_TEST}_classes": second.num_classes,
        **{f"{name}_last": counted[-1][name] for name in accuracies + tops},
        **{f"{name}_last10": last_epochs_mean(counted, name) for name in accuracies + tops},
    }


def summarize(
    config: ConfigDict, data: Data, method: Method, meta_classes: MetaClasses, folder: RunFolder, clock: Clock
) -> dict:
    """The contents of result.json: the bias that the data actually have, and the run's final metrics.

    Args:
        config: the run's config.
        data: the run's data.
        method: the run's method.
        meta_classes: the meta-classes at the end of the run.
        folder: the run's folder, with the metrics of every epoch and the last epoch's evaluation.npz.
        clock: the clock of this launch.
    """
    history, last = folder.history, folder.history[-1]
    counted = after_warmup(history, method.warmup_epochs)
    return {
        "workdir": str(folder.path),
        "method": config.method,
        METHOD_PLACE: list(METHODS).index(config.method),
        "class_feature": config.weight_net.class_feature,
        "dataset": config.data.name,
        "bias": data.record.name,
        "seed": config.seed,
        "num_examples": len(data.biased.ids),
        "wrong_rate": data.biased.wrong_rate,
        "class_counts": data.biased.class_counts,
        "meta_class_of_class": meta_classes.of_class,
        "meta_class_centers": meta_classes.centers,
        **{f"{name}_last": value for name, value in last.items() if name.startswith("test_")},
        "test_accuracy_percent_last10": last_epochs_mean(counted, "test_accuracy_percent"),
        "teacher_test_accuracy_percent_last10": last_epochs_mean(counted, "teacher_test_accuracy_percent"),
        **_also_test(data.also_test, counted),
        "test_class_accuracy_percent_last": class_accuracy_percent(
            read_arrays(folder.path, "evaluation")["confusion"]
        ),
        **method.summarize(folder.path),
        "weight_auc_last10": last_epochs_mean(counted, "weight_auc"),
        AVERAGED: min(len(counted), LAST_EPOCHS),
        IN_WARMUP: counted[-1]["epoch"] < method.warmup_epochs,
        **clock.summary(),
        "devices": parallel.describe(),
        "versions": {"jax": jax.__version__},
    }
