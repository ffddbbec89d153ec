"""Reads what a run starts from besides its data, as the run would only after these are prepared."""

from functools import partial

import jax
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data.doctor import Readers
from cmwnet_jax.errors import naming_field
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.saved_nets import learned_elsewhere
from cmwnet_jax.models.pretrained import check_has_layout, load_pretrained
from cmwnet_jax.train.build import build_model
from cmwnet_jax.train.start_from import finished_checkpoint

_ANY_SIDE = 64  # pixels; the shapes of a convolutional classifier's arrays do not depend on it


def starts(config: ConfigDict) -> Readers:
    """Readers of the pretrained weights, the other run and the weight net that a config names.

    Args:
        config: a checked config.
    """

    def run() -> str:
        finished_checkpoint(config.model.init)
        return "a finished run with a checkpoint"

    def weight_net() -> str:
        count = METHODS[config.method].num_meta_classes(config)
        learned_elsewhere(config, count)
        return f"a weight net with K = {count}, as {config.method} needs"

    return {"model.pretrained": partial(_pretrained, config), "model.init": run, "weight_net.init": weight_net}


def _pretrained(config: ConfigDict) -> str:
    """Compares the file with the model; the number of classes, which is not known yet, does not matter."""
    side = config.data.crop_pixels or _ANY_SIDE
    with naming_field("model.pretrained"):
        check_has_layout(config.model.name)  # such a model takes images
        images = np.zeros((1, side, side, 3), np.float32)
        init = partial(build_model(config, num_classes=2).init, train=False)
        blank = jax.eval_shape(init, jax.random.key(0), images)
        load_pretrained(config.model.pretrained, config.model.name, blank)
    return f"whole, and fits {config.model.name}"
