"""What a run leaves for the audit of its labels, besides weights.npz."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.example_names import names_in_memory, read_names
from cmwnet_jax.data.load import Data
from cmwnet_jax.methods.base import FileContents, Method
from cmwnet_jax.runs.stored import NAMES, PROBABILITIES
from cmwnet_jax.train.trainer import Trainer

_AUTO_BYTES = 1 << 30  # of probabilities that are left without being asked for


def audit_files(
    config: ConfigDict, data: Data, method: Method, trainer: Trainer, state: MetaState
) -> Mapping[str, FileContents]:
    """Predicts every training example once, with the final classifier.

    All processes of a run must call it.

    Args:
        config: the run's config.
        data: the run's data.
        method: the run's method.
        trainer: evaluates the classifier.
        state: the final state, replicated.

    Returns:
        Files by name; empty if the method predicts no classes. predictions.npz has the fields of
        `BesideGiven`, [N] each in the order of weights.npz, and `class_names` [C]. probabilities.npy, [N, C]
        float16, is there if the config asks for it. names.json, the data set's own `id` and `path` of these
        examples, is there if it has any.
    """
    if method.predict is None:
        return {}
    beside, probabilities = trainer.predict(state, _is_wanted(config, data))
    files = {"predictions.npz": {**beside._asdict(), "class_names": np.array(data.source.class_names)}}
    if probabilities is not None:
        files[PROBABILITIES] = probabilities
    names = _names(data)
    return {**files, NAMES: names} if names else files


def _is_wanted(config: ConfigDict, data: Data) -> bool:
    """Whether the run leaves all probabilities."""
    size = 2 * len(data.biased.ids) * data.source.num_classes
    return config.audit.probabilities == "always" or (
        config.audit.probabilities == "auto" and size <= _AUTO_BYTES
    )


def _names(data: Data) -> dict[str, list[str]]:
    """The data set's own names of the run's training examples."""
    in_memory = isinstance(data.splits["train"], Raw)
    names = (names_in_memory if in_memory else read_names)(data.source, "train")
    return {name: [values[row] for row in data.biased.ids] for name, values in names.items()}
