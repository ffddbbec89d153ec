"""The training loop: check, build, restore; then per epoch train in chunks, test and save; then the result."""

import dataclasses
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data.also_test import SPLIT as ALSO_TEST
from cmwnet_jax.data.bias_record import check_unchanged, save_record
from cmwnet_jax.data.load import Data, load_data
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.audit_files import audit_files
from cmwnet_jax.train.build import Recipe, build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.checkpoint import Checkpoints, Restored
from cmwnet_jax.train.chunks import run_chunks
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.config import run_folder
from cmwnet_jax.train.continuing import check_longer
from cmwnet_jax.train.epoch import Epoch
from cmwnet_jax.train.evaluate import accuracy_metrics, evaluation_arrays, split_metrics
from cmwnet_jax.train.metrics import weight_metrics
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.train.result import summarize, weight_arrays, weighting_arrays
from cmwnet_jax.train.saving import Saver
from cmwnet_jax.train.selective import selective_arrays
from cmwnet_jax.train.show import ProgressBar
from cmwnet_jax.train.trainer import Trainer
from cmwnet_jax.train.watch import Board, is_due


def train(config: ConfigDict, workdir: str) -> dict:
    """Trains a config and writes the run's folder; resumes an unfinished run.

    A finished run continues if only `num_epochs` is changed, to a larger value, and the steps already done are
    the same as the first steps of the longer run.

    In a run of several processes, all of them call this. The first process writes the run's folder; the others
    write to a temporary folder.

    Args:
        config: `default_config()` with changes.
        workdir: the run's folder; created if missing.

    Returns:
        The contents of result.json; an empty dict in the other processes of a run.

    Raises:
        UsageError: the config or the folder cannot be used, and nothing has been written; or the disk is full,
            and the checkpoints are unchanged.
        TrainingDiverged: NaN, infinities or all-zero weights arose; the last checkpoint is from before.
        Preempted: SIGTERM or SIGINT came, and the run is saved after the chunk of steps that was running. The
            grace period before a SIGKILL should be longer than a chunk (`chunk_steps`); otherwise the run
            resumes from the previous checkpoint.
    """
    check_config(config)
    clock = Clock()
    parallel.use_compilation_cache()
    with parallel.scratch_unless_first(workdir) as own_workdir:
        folder = run_folder(own_workdir)
        folder.check(config)
        data = load_data(config)
        if folder.has_checkpoint:  # otherwise everything is made anew
            check_unchanged(folder.path, data.record, data.true_labels)
        recipe = build_recipe(_from_own_copy(config, folder), data)
        check_longer(config, folder, recipe.epoch_steps)
        with (
            folder.writing(config),
            health.naming_the_last_checkpoint(folder.checkpoints),
            Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints,
        ):
            return _train(_Launch(config, workdir, folder, checkpoints, data, recipe, clock))


@dataclasses.dataclass(frozen=True, eq=False)
class _Launch:
    """The objects of one call of `train`; `folder` is at `workdir` in the first process only."""

    config: ConfigDict
    workdir: str
    folder: RunFolder
    checkpoints: Checkpoints
    data: Data
    recipe: Recipe
    clock: Clock
    said: set[str] = dataclasses.field(default_factory=set)  # warnings that one call gives only once


def _from_own_copy(config: ConfigDict, folder: RunFolder) -> ConfigDict:
    """The config without outside files that the run no longer needs; the same in all processes."""
    if config.weight_net.init:
        own = folder.initial_weight_net
        content = parallel.value_from_first(own.read_bytes() if own.exists() else None)
        if content is not None and not parallel.is_first():
            folder.write_initial_weight_net(content)
    return folder.from_own_copy(config, parallel.value_from_first(folder.has_checkpoint))


def _train(launch: _Launch) -> dict:
    """The part of `train` that writes files."""
    config, recipe, clock = launch.config, launch.recipe, launch.clock
    steps_done, state, saved = _restore(launch)
    first_epoch, first = divmod(steps_done, recipe.epoch_steps)
    state = parallel.replicate(state)
    trainer = Trainer(config, launch.data, recipe)
    _start_folder(launch, first_epoch)
    with (
        Board(launch.folder.path / "tensorboard", first_epoch) as board,
        _progress_bar(config, first_epoch + first / recipe.epoch_steps) as bar,
        StopRequests(bar.say) as stop,
    ):
        saver = Saver(config, launch.workdir, recipe, launch.folder, launch.checkpoints, stop)
        run = (config, launch.data, recipe.method, trainer, state)
        chunks = run_chunks(*run, clock=clock, first_epoch=first_epoch, saved=saved)
        for number, (state, epoch, loss) in enumerate(chunks):
            if number == 0 and parallel.is_first():
                bar.say(f"compiled in {clock.seconds_compile:.1f} s")
            bar.advance(epoch.run_steps_done / epoch.num_steps, loss)
            if epoch.is_over:
                _finish_epoch(launch, trainer, board, bar, saver, state, epoch)
            else:
                saver.after_chunk(epoch, state)
    launch.checkpoints.wait()
    classes = _meta_classes(launch, state)
    return _finish(launch, classes) if parallel.is_first() else {}


def _restore(launch: _Launch) -> Restored:
    """Restores the newest checkpoint in all processes; only the first one can read it."""
    restored = launch.checkpoints.restore(launch.recipe.state)
    steps_done, state = parallel.from_first((restored.steps_done, restored.state))
    return Restored(int(steps_done), state, parallel.value_from_first(restored.epoch))


def _start_folder(launch: _Launch, first_epoch: int) -> None:
    # The other processes' folders are always new.
    launch.folder.start(launch.config, first_epoch if parallel.is_first() else 0)
    role = launch.recipe.method.weight_net
    if role is not None and role.content is not None:
        launch.folder.write_initial_weight_net(role.content)
    save_record(launch.folder.path, launch.data.record, launch.data.true_labels)


def _progress_bar(config: ConfigDict, epochs_done: float) -> ProgressBar:
    title = f"{config.method} seed {config.seed}"
    return ProgressBar(title, config.num_epochs, epochs_done, silent=not parallel.is_first())


def _finish_epoch(
    launch: _Launch,
    trainer: Trainer,
    board: Board,
    bar: ProgressBar,
    saver: Saver,
    state: MetaState,
    epoch: Epoch,
) -> None:
    """Tests the classifiers after an epoch, reports, and saves when due."""
    second = launch.data.also_test
    with launch.clock.compute():
        tested = trainer.test(state)
        also_tested = {} if second is None else trainer.test(state, ALSO_TEST)
    health.check_test_losses(tested[""].losses, epoch.run_steps_done)
    _report(launch, board, bar, epoch, tested, also_tested, state)
    _picture(launch, trainer, board, epoch, tested[""], state)
    if epoch.number + 1 == launch.config.num_epochs:
        _leave_for_audit(launch, trainer, state)
    saver.after_epoch(epoch, state)


def _meta_classes(launch: _Launch, state: MetaState) -> MetaClasses:
    """The meta-classes at a replicated state."""
    method = launch.recipe.method
    return method.meta_classes if method.refitted is None else method.refitted(parallel.unreplicate(state))


def _report(
    launch: _Launch,
    board: Board,
    bar: ProgressBar,
    epoch: Epoch,
    tested: dict[str, NamedTuple],
    also_tested: dict[str, NamedTuple],
    state: MetaState,
) -> None:
    """Writes and shows an epoch's metrics."""
    data, method, test = launch.data, launch.recipe.method, tested[""]
    classes, second = _meta_classes(launch, state), data.also_test
    others = {name: measured for name, measured in tested.items() if name}
    count = data.source.num_classes
    metrics = {
        "epoch": epoch.number,
        "learning_rate": float(launch.recipe.learning_rate(epoch.run_steps_done - 1)),
        **health.scalar_means(epoch.scalars, epoch.is_meta),
        **epoch.loss_range(),
        **(_weight_metrics(launch, epoch, classes) if method.phase(epoch.number).weighs else {}),
        **method.describe_plan(epoch.selections),
        **split_metrics(test, data.test_labels, data.biased.class_counts, classes),
        **method.test_numbers(test),
        **accuracy_metrics("test", others, data.test_labels, count),
        **({} if second is None else accuracy_metrics(second.name, also_tested, second.labels, count)),
        **launch.clock.epoch_seconds(),
    }
    launch.folder.append_metrics(metrics)
    board.add_metrics(metrics)
    bar.update(metrics)


def _weight_metrics(launch: _Launch, epoch: Epoch, classes: MetaClasses) -> dict:
    """Metrics of the epoch's weights; for a frozen weight net also the share of extrapolated ones."""
    biased, rows = launch.data.biased, epoch.main_rows.ravel()
    labels = biased.given[rows] if epoch.labels is None else epoch.labels.ravel()
    is_wrong = labels != biased.true[rows] if biased.truth_known else None
    metrics = weight_metrics(
        epoch.weights.ravel(), is_wrong, classes.of_class[labels], classes.num_meta_classes
    )
    if epoch.labels is not None:
        metrics["labels_right_percent"] = np.nan if is_wrong is None else float(100 * np.mean(~is_wrong))
    role = launch.recipe.method.weight_net
    if role is not None and not role.learns and role.known_range is not None:
        share = health.share_outside(epoch.losses, role.known_range)
        metrics["loss_share_outside_range"] = share
        if share and parallel.is_first() and "extrapolation" not in launch.said:
            launch.said.add("extrapolation")
            health.warn_of_extrapolation(epoch.number, share, role.known_range)
    return metrics


def _picture(
    launch: _Launch, trainer: Trainer, board: Board, epoch: Epoch, test: NamedTuple, state: MetaState
) -> None:
    """Draws plots when due; after the last epoch also writes the run's arrays, before the last checkpoint."""
    is_last = epoch.number + 1 == launch.config.num_epochs
    if not is_last and not is_due(epoch.number, launch.config.watch.pictures_every_epochs):
        return
    data, folder, method = launch.data, launch.folder, launch.recipe.method
    classes = _meta_classes(launch, state)
    arrays = weight_arrays(data, classes, epoch)
    weight_params = parallel.unreplicate(state.weight_params)
    arrays |= weighting_arrays(method, weight_params, classes, folder.history)
    tested = evaluation_arrays(test, data.test_labels, data.class_names)
    board.add_pictures(epoch.number, arrays, tested["confusion"], data.class_names)
    if is_last:
        whole = parallel.unreplicate(state)
        health.check_state(whole, epoch.run_steps_done)
        folder.write_weights(**arrays)
        folder.write_evaluation(**tested)
        if "calibration" in data.splits:
            calibration = trainer.measure("calibration", method.classifiers(state)[""])
            given = (test, data.test_labels, calibration, method.coverages_percent)
            folder.write_left("selective.npz", selective_arrays(*given))
        for name, contents in method.leave(whole).items():
            folder.write_left(name, contents)


def _leave_for_audit(launch: _Launch, trainer: Trainer, state: MetaState) -> None:
    """Predicts the training examples and writes what the audit reads; before the last checkpoint, too."""
    with launch.clock.compute():
        files = audit_files(launch.config, launch.data, launch.recipe.method, trainer, state)
    for name, contents in files.items():
        launch.folder.write_left(name, contents)


def _finish(launch: _Launch, classes: MetaClasses) -> dict:
    result = summarize(launch.config, launch.data, launch.recipe.method, classes, launch.folder, launch.clock)
    launch.folder.write_result(result)
    return result
