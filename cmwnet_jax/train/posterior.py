"""Class probabilities of a trained classifier, which feature-dependent noise is made from (Sec. 4.3)."""

import os
from pathlib import Path

import jax
import numpy as np

from cmwnet_jax.data.batches import Raw
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.build_data import build_data, build_input
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.run_folder import RunFolder


def save_posterior(workdir: str, output: str) -> Path:
    """Writes [training split, C] float32: a finished run's softmax for every training image of its set.

    The run should have been trained on clean labels (bias `none`).

    Args:
        workdir: the run's folder.
        output: an .npy file, replaced as a whole or not at all.

    Raises:
        UsageError: the run is not finished, was trained on biased labels, or streams its data.
    """
    folder, path = RunFolder(workdir), Path(output).expanduser()
    if path.suffix != ".npy":
        raise UsageError(f"output is {output!r}, expected a file name that ends in .npy")
    config = folder.finished_config()
    data = build_data(config)
    if data.biased.is_wrong.any() or len(data.biased.ids) != len(data.true_labels):
        raise UsageError(
            f"workdir is {workdir!r}, a run under the bias {data.record.name!r}, expected one on clean labels: "
            f"train one with --config.data.bias=none"
        )
    if not isinstance(data.splits["train"], Raw):
        raise UsageError(f"workdir is {workdir!r}, a run that streams its data, expected data.path 'device'")
    recipe = build_recipe(config, data)
    with Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints:
        steps_done, state, _ = checkpoints.restore(recipe.state)
    if steps_done != config.num_epochs * recipe.order.steps:
        raise UsageError(f"workdir is {workdir!r}, whose last checkpoint is missing: train it again")
    if not path.parent.is_dir():
        raise UsageError(f"output is {output!r}, in a folder that does not exist: make it")

    def probabilities(params, model_state, batch):
        logits = recipe.model.apply({"params": params, **model_state}, batch["image"], train=False)
        return (jax.nn.softmax(logits),)

    inputs = build_input(config, data, 0, recipe.one_step_a_call)
    state = parallel.replicate(state)
    (posterior,) = inputs.map_split("train", probabilities)(state.params, state.model_state)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, posterior)
    os.replace(partial, path)
    return path
