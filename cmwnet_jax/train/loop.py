"""The training loop: check, build, restore, then epochs of train, measure, save; then the result."""

import time

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import batches, meta_set
from cmwnet_jax.data.record import save_record
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Recipe, build_recipe
from cmwnet_jax.train.build_data import Data, build_data, build_input, build_meta_set
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.evaluate import make_measure
from cmwnet_jax.train.inputs import Input
from cmwnet_jax.train.metrics import accuracy_percent, weight_metrics
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.train.result import saved_weight_net, summarize, weight_arrays
from cmwnet_jax.train.run_folder import RunFolder
from cmwnet_jax.train.show import ProgressBar


def train(config: ConfigDict, workdir: str) -> dict:
    """Trains what the config says, into a run's folder; goes on where an unfinished run stopped.

    Args:
        config: `default_config()` with changes.
        workdir: the run's folder; made where it is missing.

    Returns:
        What result.json holds.

    Raises:
        UsageError: the config or the folder cannot be used; nothing has been written then. Or the disk
            is full; the checkpoints are as they were then.
        Preempted: SIGTERM or SIGINT came, and the epoch that was running is saved. The grace between
            the signal and a SIGKILL should be longer than an epoch; where it is not, the run goes on
            from the checkpoint before.
    """
    started = time.perf_counter()
    parallel.use_compilation_cache()
    folder = RunFolder(workdir)
    folder.check(config)
    data = build_data(config)
    recipe = build_recipe(config, data)
    with folder.writing(config), Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints:
        return _train(config, folder, checkpoints, data, recipe, started)


def _train(
    config: ConfigDict, folder: RunFolder, checkpoints: Checkpoints, data: Data, recipe: Recipe, started: float
) -> dict:
    """The part of `train` that writes."""
    first_epoch, state = checkpoints.restore(recipe.state)
    folder.start(config, first_epoch)
    save_record(folder.path, data.record, data.true_labels)
    state = parallel.replicate(state)

    inputs = build_input(config, data, first_epoch, recipe.one_step_a_call)
    run_warmup, run_main = (inputs.make_run_epoch(step) for step in (recipe.warmup, recipe.main))
    measure_train, measure_test = (
        inputs.map_split(split, make_measure(recipe.model)) for split in ("train", "test")
    )
    nothing = _no_meta_set(inputs)

    with (
        ProgressBar(f"{config.method} seed {config.seed}", config.num_epochs, first_epoch) as bar,
        StopRequests() as stop,
    ):
        for epoch in range(first_epoch, config.num_epochs):
            epoch_started = time.perf_counter()
            rows = recipe.order.epoch(epoch)
            learns_weights = config.method != "erm" and epoch >= config.warmup_epochs
            if learns_weights:
                measured = measure_train(state.params, state.model_state)
                split, chosen = build_meta_set(config, data, epoch, *measured)
                meta = inputs.load_meta(split, chosen, epoch)
                state, steps = run_main(state, epoch, meta, _meta_rows(config, epoch, chosen, len(rows)))
                meta_metrics = _meta_set_metrics(data, split, chosen)
            else:
                state, steps = run_warmup(state, epoch, nothing, np.zeros_like(rows))
                meta_metrics = {}
            losses, weights = (parallel.join_steps(steps.pop(name)).ravel() for name in ("losses", "weights"))
            test_losses, predictions = measure_test(state.params, state.model_state)
            metrics = {
                "epoch": epoch,
                "learning_rate": float(recipe.learning_rate((epoch + 1) * len(rows) - 1)),
                **{name: float(np.mean(values[0])) for name, values in steps.items()},
                "loss_min": float(np.min(losses)),
                "loss_max": float(np.max(losses)),
                **weight_metrics(weights, data.biased.is_wrong[rows.ravel()]),
                **meta_metrics,
                "test_loss": float(np.mean(test_losses)),
                "test_accuracy_percent": accuracy_percent(predictions, data.test_labels),
                "seconds": time.perf_counter() - epoch_started,
            }
            folder.append_metrics(metrics)
            bar.update(metrics)
            is_last = epoch + 1 == config.num_epochs
            stopping = stop.requested and not is_last  # asked once, so that all that stops is saved
            if is_last or stopping or (epoch + 1) % config.checkpoint.every_epochs == 0:
                one = parallel.unreplicate(state)
                if is_last:  # before the checkpoint that says that no epoch is left
                    arrays = weight_arrays(data, rows.ravel(), losses, weights)
                    arrays |= recipe.weighting_arrays(one.weight_params, folder.metrics())
                    folder.write_weights(**arrays)
                learned = saved_weight_net(config, data, one.weight_params, folder.metrics())
                checkpoints.save(epoch + 1, one, learned)
            if stopping:
                raise stop.preempted(epoch + 1, config.num_epochs, str(folder.path))
    checkpoints.wait()
    result = summarize(config, data, folder, time.perf_counter() - started)
    folder.write_result(result)
    return result


def _no_meta_set(inputs: Input):
    """A meta set of one example for the warm-up's steps, which do not look at it."""
    return inputs.load_meta("train", meta_set.MetaSet(np.zeros(1, np.int32), np.zeros(1, np.int32)), 0)


def _meta_rows(config: ConfigDict, epoch: int, chosen: meta_set.MetaSet, steps: int) -> np.ndarray:
    """Meta batches of a size that the devices can share evenly."""
    size = min(config.meta_set.batch_size, len(chosen.rows))
    size = parallel.round_down("meta_set.batch_size", size)
    return batches.meta_rows(config.seed, epoch, len(chosen.rows), steps, size)


def _meta_set_metrics(data: Data, split: str, chosen: meta_set.MetaSet) -> dict[str, float]:
    """How large the meta set is, and how much of it is in truth rightly labelled, where that is known."""
    right = 100.0 if split == "held_out" else meta_set.rightness(data.biased, chosen).percent
    return {"meta_set_size": len(chosen.rows), "meta_set_right_percent": right}
