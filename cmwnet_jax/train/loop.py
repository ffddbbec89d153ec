"""The training loop: check, build, restore, then epochs of train, measure, save; then the result."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import batches
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Data, Recipe, build_data, build_meta_rows, build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.evaluate import make_evaluate
from cmwnet_jax.train.metrics import accuracy_percent, last_epochs_mean, weight_metrics
from cmwnet_jax.train.run_folder import RunFolder
from cmwnet_jax.train.show import ProgressBar
from cmwnet_jax.types import MetaState, StepFn
from cmwnet_jax.weight_net import weighting_functions


def train(config: ConfigDict, workdir: str) -> dict:
    """Trains what the config says, into a run's folder; goes on where an unfinished run stopped.

    Args:
        config: `default_config()` with changes.
        workdir: the run's folder; made where it is missing.

    Returns:
        What result.json holds.

    Raises:
        UsageError: the config or the folder cannot be used; nothing has been written then.
    """
    started = time.perf_counter()
    parallel.use_compilation_cache()
    folder = RunFolder(workdir)
    folder.check(config)
    data = build_data(config)
    recipe = build_recipe(config, data)

    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep)
    first_epoch, state = checkpoints.restore(recipe.state)
    folder.start(config, first_epoch)

    state = parallel.replicate(state)
    train_table, test_table, meta_table = (
        parallel.replicate(table) for table in (data.train, data.test, data.meta_table)
    )
    warmup, main = _make_run_epoch(recipe.warmup), _make_run_epoch(recipe.main)
    evaluate = make_evaluate(recipe.model)
    num_examples, num_test = len(data.biased.ids), len(data.dataset.test)

    with ProgressBar(f"{config.method} seed {config.seed}", config.num_epochs, first_epoch) as bar:
        for epoch in range(first_epoch, config.num_epochs):
            epoch_started = time.perf_counter()
            rows = batches.epoch_rows(config.seed, epoch, num_examples, config.batch_size)
            learns_weights = config.method != "erm" and epoch >= config.warmup_epochs
            meta_metrics = {}
            if learns_weights:
                losses, _ = evaluate(state, train_table, num_examples)
                meta_set = build_meta_rows(config, data, epoch, losses)
                meta_rows = _meta_rows(config, epoch, meta_set, len(rows))
                meta_metrics = _meta_set_metrics(data, meta_set)
            else:
                meta_rows = rows  # the warm-up step does not look at it
            run_epoch = main if learns_weights else warmup
            state, steps = run_epoch(
                state, train_table, meta_table, parallel.split_rows(rows), parallel.split_rows(meta_rows)
            )
            losses, weights = (parallel.gather_rows(steps.pop(name)).ravel() for name in ("losses", "weights"))
            test_losses, predictions = evaluate(state, test_table, num_test)
            metrics = {
                "epoch": epoch,
                "learning_rate": float(recipe.learning_rate((epoch + 1) * len(rows) - 1)),
                **{name: float(np.mean(values[0])) for name, values in steps.items()},
                "loss_max": float(np.max(losses)),
                **weight_metrics(weights, data.biased.is_wrong[rows.ravel()]),
                **meta_metrics,
                "test_loss": float(np.mean(test_losses)),
                "test_accuracy_percent": accuracy_percent(predictions, data.dataset.test.labels),
                "seconds": time.perf_counter() - epoch_started,
            }
            folder.append_metrics(metrics)
            bar.update(metrics)
            is_last = epoch + 1 == config.num_epochs
            if is_last or (epoch + 1) % config.checkpoint.every_epochs == 0:
                one = parallel.unreplicate(state)
                if is_last:  # before the checkpoint that says that no epoch is left
                    examples = {"rows": rows.ravel(), "losses": losses, "weights": weights}
                    folder.write_weights(**_weights_file(config, data, recipe, one, examples, folder.metrics()))
                checkpoints.save(epoch + 1, one)
    checkpoints.close()
    result = _result(config, data, folder, time.perf_counter() - started)
    folder.write_result(result)
    return result


def _make_run_epoch(step: StepFn) -> Callable:
    """(state, table, meta table, rows [D, steps, n/D], meta rows) -> (state, metrics [D, steps, ...])."""

    def one(state, table, meta_table, rows, meta_rows):
        return step(state, batches.gather(table, rows), batches.gather(meta_table, meta_rows))

    def epoch(state, table, meta_table, rows, meta_rows):
        return jax.lax.scan(lambda s, r: one(s, table, meta_table, *r), state, (rows, meta_rows))

    return parallel.pmap(epoch, donate_argnums=(0,))


def _meta_rows(config: ConfigDict, epoch: int, meta_set: np.ndarray, steps: int) -> np.ndarray:
    """Meta batches of a size that the devices can share evenly."""
    size = min(config.meta_set.batch_size, len(meta_set))
    size = parallel.round_down("meta_set.batch_size", size)
    return batches.meta_rows(config.seed, epoch, meta_set, steps, size)


def _meta_set_metrics(data: Data, meta_set: np.ndarray) -> dict:
    """How large the meta set is, and how much of it is in truth rightly labelled."""
    wrong = data.biased.is_wrong[meta_set] if data.meta_table is data.train else np.zeros(len(meta_set), bool)
    return {"meta_set_size": len(meta_set), "meta_set_right_percent": float(100 * np.mean(~wrong))}


def _weights_file(
    config: ConfigDict, data: Data, recipe: Recipe, state: MetaState, examples: dict, history: list[dict]
) -> dict[str, np.ndarray]:
    """What weights.npz holds: the last epoch's weight of each example that it visited, and the functions.

    The functions run from loss 0 to the highest that the weight net has learned from.
    """
    rows = examples.pop("rows")
    given = data.biased.given[rows]
    arrays = {
        "ids": data.biased.ids[rows],
        "given": given,
        "true": data.biased.true[rows],
        "meta_class": data.meta_classes.of_class[given],
        "centers": data.meta_classes.centers,
        **examples,
    }
    learned = [line["loss_max"] for line in history if line["epoch"] >= config.warmup_epochs]
    if recipe.weight_net is not None and learned:
        grid = jnp.linspace(0, max(learned), 200)
        count = data.meta_classes.num_meta_classes
        arrays["grid"] = np.asarray(grid)
        arrays["functions"] = np.asarray(
            weighting_functions(recipe.weight_net.apply, state.weight_params, grid, count)
        )
    return arrays


def _result(config: ConfigDict, data: Data, folder: RunFolder, seconds: float) -> dict:
    """What result.json holds: the run's bias as it came out, and its honest numbers."""
    history = folder.metrics()
    return {
        "workdir": str(folder.path),
        "method": config.method,
        "dataset": config.data.name,
        "bias": config.data.bias,
        "seed": config.seed,
        "num_examples": len(data.biased.ids),
        "wrong_rate": data.biased.wrong_rate,
        "class_counts": data.biased.class_counts,
        "meta_class_of_class": data.meta_classes.of_class,
        "meta_class_centers": data.meta_classes.centers,
        "test_accuracy_percent_last": history[-1]["test_accuracy_percent"],
        "test_accuracy_percent_last10": last_epochs_mean(history, "test_accuracy_percent"),
        "weight_auc_last10": last_epochs_mean(history, "weight_auc"),
        "seconds": seconds,
        "devices": parallel.describe(),
        "versions": {"jax": jax.__version__},
    }
