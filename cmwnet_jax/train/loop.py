"""The training loop: check, build, restore, then epochs of train, measure, save; then the result."""

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import batches, meta_set
from cmwnet_jax.data.record import save_record
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.build import Recipe, build_recipe
from cmwnet_jax.train.build_data import Data, build_data, build_input, build_meta_set, needs_losses
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.evaluate import Measured, evaluation_arrays, make_measure, split_metrics
from cmwnet_jax.train.inputs import Input
from cmwnet_jax.train.metrics import weight_metrics
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.train.result import saved_weight_net, summarize, weight_arrays
from cmwnet_jax.train.run_folder import RunFolder
from cmwnet_jax.train.show import ProgressBar
from cmwnet_jax.train.watch import Board, is_due


def train(config: ConfigDict, workdir: str) -> dict:
    """Trains what the config says, into a run's folder; goes on where an unfinished run stopped.

    In a run of several processes, each calls this; the first one's folder is the run's, the others write
    to a scratch folder that is gone at the end.

    Args:
        config: `default_config()` with changes.
        workdir: the run's folder; made where it is missing.

    Returns:
        What result.json holds; nothing in a run's other processes.

    Raises:
        UsageError: the config or the folder cannot be used; nothing has been written then. Or the disk
            is full; the checkpoints are as they were then.
        TrainingDiverged: NaN, infinities or weights that are all 0; the last checkpoint is from before.
        Preempted: SIGTERM or SIGINT came, and the epoch that was running is saved. The grace between
            the signal and a SIGKILL should be longer than an epoch; where it is not, the run goes on
            from the checkpoint before.
    """
    clock = Clock()
    parallel.use_compilation_cache()
    with parallel.scratch_unless_first(workdir) as own_workdir:
        folder = RunFolder(own_workdir)
        folder.check(config)
        data = build_data(config)
        recipe = build_recipe(config, data)
        with (
            folder.writing(config),
            health.naming_the_last_checkpoint(folder.checkpoints),
            Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints,
        ):
            return _train(config, workdir, folder, checkpoints, data, recipe, clock)


def _train(
    config: ConfigDict,
    workdir: str,
    folder: RunFolder,
    checkpoints: Checkpoints,
    data: Data,
    recipe: Recipe,
    clock: Clock,
) -> dict:
    """The part of `train` that writes; `folder` is `workdir` in the first process."""
    first_epoch, state = parallel.from_first(checkpoints.restore(recipe.state))
    first_epoch = int(first_epoch)
    folder.start(config, first_epoch if parallel.is_first() else 0)  # others' folders are new each time
    save_record(folder.path, data.record, data.true_labels)
    state = parallel.replicate(state)

    inputs = build_input(config, data, first_epoch, recipe.one_step_a_call)
    run_warmup, run_main = (inputs.make_run_epoch(step) for step in (recipe.warmup, recipe.main))
    measure_train, measure_test = (
        inputs.map_split(split, make_measure(recipe.model)) for split in ("train", "test")
    )
    nothing = _no_meta_set(inputs)

    with (
        Board(folder.path / "tensorboard", first_epoch) as board,
        ProgressBar(_title(config), config.num_epochs, first_epoch, silent=not parallel.is_first()) as bar,
        StopRequests() as stop,
    ):
        for epoch in range(first_epoch, config.num_epochs):
            clock.start_epoch()
            rows, is_meta = recipe.order.epoch(epoch), recipe.meta_steps(epoch)
            first_step = epoch * len(rows)
            learns_weights = recipe.learns_weights(epoch)
            meta_metrics = {}
            with clock.compute():
                if learns_weights:
                    measured = None
                    if needs_losses(config):
                        measured = Measured(*measure_train(state.params, state.model_state))
                    split, chosen = build_meta_set(config, data, epoch, measured)
                    meta = inputs.load_meta(split, chosen, epoch)
                    meta_rows = _meta_rows(config, epoch, chosen, len(rows))
                    state, steps = run_main(state, epoch, meta, meta_rows)
                    meta_metrics = _meta_set_metrics(data, split, chosen)
                else:
                    state, steps = (run_warmup if epoch < config.warmup_epochs else run_main)(
                        state, epoch, nothing, np.zeros_like(rows)
                    )
                steps = {name: np.asarray(values) for name, values in parallel.unreplicate(steps).items()}
                test = Measured(*measure_test(state.params, state.model_state))
            losses, weights = (steps.pop(name) for name in ("losses", "weights"))
            health.check_steps(
                steps, losses, weights, ids=data.biased.ids[rows], is_meta=is_meta, first_step=first_step
            )
            health.check_test_losses(test.losses, first_step + len(rows))
            metrics = {
                "epoch": epoch,
                "learning_rate": float(recipe.learning_rate(first_step + len(rows) - 1)),
                **health.scalar_means(steps, is_meta),
                "loss_min": float(np.min(losses)),
                "loss_max": float(np.max(losses)),
                **(_weight_metrics(data, rows.ravel(), weights.ravel()) if learns_weights else {}),
                **meta_metrics,
                **split_metrics(test, data.test_labels, data.biased.class_counts, data.meta_classes),
                **clock.epoch_seconds(),
            }
            folder.append_metrics(metrics)
            board.add_metrics(metrics)
            bar.update(metrics)

            is_last = epoch + 1 == config.num_epochs
            stopping = not is_last and parallel.any_process(stop.requested)
            if is_last or is_due(epoch, config.watch.pictures_every_epochs):
                arrays = weight_arrays(data, rows.ravel(), losses.ravel(), weights.ravel())
                weight_params = parallel.unreplicate(state.weight_params)
                arrays |= recipe.weighting_arrays(weight_params, folder.metrics())
                tested = evaluation_arrays(test, data.test_labels, data.source.num_classes)
                board.add_pictures(epoch, arrays, tested["confusion"], data.source.class_names)
            if is_last or stopping or is_due(epoch, config.checkpoint.every_epochs):
                one = parallel.unreplicate(state)
                health.check_state(one, first_step + len(rows))
                if is_last:  # before the checkpoint that says that no epoch is left
                    folder.write_weights(**arrays)
                    folder.write_evaluation(**tested)
                learned = saved_weight_net(config, data, one.weight_params, folder.metrics())
                checkpoints.save(epoch + 1, one, learned)
            if stopping:
                raise stop.preempted(epoch + 1, config.num_epochs, workdir)
    checkpoints.wait()
    if not parallel.is_first():
        return {}
    result = summarize(config, data, folder, clock)
    folder.write_result(result)
    return result


def _title(config: ConfigDict) -> str:
    return f"{config.method} seed {config.seed}"


def _no_meta_set(inputs: Input):
    """A meta set of one example for the warm-up's steps, which do not look at it."""
    return inputs.load_meta("train", meta_set.MetaSet(np.zeros(1, np.int32), np.zeros(1, np.int32)), 0)


def _meta_rows(config: ConfigDict, epoch: int, chosen: meta_set.MetaSet, steps: int) -> np.ndarray:
    """Meta batches of a size that the devices can share evenly."""
    size = min(config.meta_set.batch_size, len(chosen.rows))
    size = parallel.round_down("meta_set.batch_size", size)
    return batches.meta_rows(config.seed, epoch, len(chosen.rows), steps, size)


def _weight_metrics(data: Data, rows: np.ndarray, weights: np.ndarray) -> dict:
    """The health of the weights [n] that the training examples at these rows [n] got."""
    is_wrong = data.biased.is_wrong[rows] if data.biased.truth_known else None
    meta_class = data.meta_classes.of_class[data.biased.given[rows]]
    return weight_metrics(weights, is_wrong, meta_class, data.meta_classes.num_meta_classes)


def _meta_set_metrics(data: Data, split: str, chosen: meta_set.MetaSet) -> dict[str, float]:
    """How large the meta set is, and how much of it is in truth rightly labelled, where that is known."""
    right = 100.0 if split == "held_out" else meta_set.rightness(data.biased, chosen).percent
    return {"meta_set_size": len(chosen.rows), "meta_set_right_percent": right}
