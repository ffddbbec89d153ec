"""Class probabilities of a trained classifier, from which feature-dependent noise is generated (Sec. 4.3)."""

import dataclasses
import functools
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.bias_record import check_unchanged
from cmwnet_jax.data.load import Data, load_data
from cmwnet_jax.data.probabilities import save_probabilities
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import file_to_write
from cmwnet_jax.methods.measure import predict_classes
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Recipe, build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.config import run_folder
from cmwnet_jax.train.inputs import open_input


def save_posterior(workdir: str, output: str, of_given_labels: bool = False) -> Path:
    """Writes a finished run's softmax outputs for all training images, [training split, C] float32.

    Args:
        workdir: the run's folder.
        output: the .npy file, replaced atomically. A file of the same name with .json added records the data
            set.
        of_given_labels: whether the run may be trained on biased labels, as Forward correction needs it to
            estimate its matrix. Feature-dependent noise needs a run on clean labels.

    Returns:
        The path of the .npy file.

    Raises:
        UsageError: the run is not finished, was trained on biased labels, on a part of the examples or on data
            that have changed since, or streams its data.
    """
    folder, path = run_folder(workdir), file_to_write("output", output, ".npy")
    config = folder.finished_config()
    data = load_data(config)
    check_unchanged(workdir, data.record, data.true_labels)
    apart = {"held_out": "meta_set.kind", "calibration": "data.calibration_per_class"}
    for name, field in apart.items():
        if name in data.splits and not of_given_labels:
            raise UsageError(
                f"workdir is {workdir!r}, a run that has not seen the examples which {field} sets apart, "
                f"expected one on all training examples: train one with another meta_set.kind and no "
                f"calibration split"
            )
    is_biased = data.biased.is_wrong.any() or len(data.biased.ids) != len(data.true_labels)
    if is_biased and not of_given_labels:
        raise UsageError(
            f"workdir is {workdir!r}, a run under the bias {data.record.name!r}, expected one on clean labels: "
            f"train one with --config.data.bias=none, or, for Forward correction, add --of_given_labels"
        )
    if data.biased.foreign is not None:
        raise UsageError(
            f"workdir is {workdir!r}, a run under the bias {data.record.name!r}, which shows another data "
            f"set's images, expected one on its own: train one under another bias"
        )
    if not isinstance(data.splits["train"], Raw):
        raise UsageError(f"workdir is {workdir!r}, a run that streams its data, expected data.path 'device'")
    recipe = build_recipe(folder.from_own_copy(config, folder.has_checkpoint), data)
    with Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints:
        steps_done, state, _ = checkpoints.restore(recipe.state)
    if steps_done != config.num_epochs * recipe.epoch_steps:
        raise UsageError(f"workdir is {workdir!r}, whose last checkpoint is missing: train it again")
    if not path.parent.is_dir():
        raise UsageError(f"output is {output!r}, in a folder that does not exist: make it")

    predict = recipe.method.predict or predict_classes(recipe.model)
    # Put in place of the test split, so that pixels are normalised by the moments of the run's training split.
    splits = data.splits | {"test": _whole_training_split(config)}
    inputs = open_input(
        dataclasses.replace(data, splits=splits),
        recipe.method.streams,
        recipe.orders,
        config.seed,
        recipe.one_step_a_call,
    )
    (classifier, *_) = recipe.method.classifiers(parallel.replicate(state)).values()
    if [x.shape[1:] for x in jax.tree.leaves(classifier)] != _shapes(recipe, data):
        raise UsageError(
            f"workdir is {workdir!r}, a run of {config.method}, which trains several classifiers, expected "
            f"a run of a method with a single one: take one of erm"
        )
    (posterior,) = inputs.map_split("test", lambda *of: (predict(*of),))(classifier)
    save_probabilities(path, posterior, data.true_labels, data.source.class_names)
    return path


def _shapes(recipe: Recipe, data: Data) -> list[tuple[int, ...]]:
    """The shapes of a single classifier's arrays."""
    init = functools.partial(recipe.model.init, train=False)
    return [x.shape for x in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), data.blank()))]


def _whole_training_split(config: ConfigDict) -> Raw:
    """Loads every training image of the run's data set, including those that its bias left out."""
    plain = config.copy_and_resolve_references()
    plain.data.bias, plain.data.record = "none", ""
    plain.meta_set.kind, plain.data.calibration_per_class = "balanced", 0  # nothing is set apart
    return load_data(plain).splits["train"]
