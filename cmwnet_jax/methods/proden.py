"""PRODEN: finds one label per example from sets of candidate labels (Lv et al. 2020; Sec. 7.1)."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import partial_labels
from cmwnet_jax.core.table import Table, remembering
from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Phase, Spec
from cmwnet_jax.methods.plain import weighted_step
from cmwnet_jax.runs.arrays import read_confidences

_FILE = "confidences.npy"


def build(parts: Parts) -> Method:
    """Builds PRODEN without a warm-up: with candidate sets, the given label carries no information."""
    objective = partial_labels.proden_objective(parts.model.apply, parts.meta_classes)
    step = remembering(weighted_step(parts, objective), parts.axis_name)
    confidences = partial_labels.uniform_confidences(parts.data.biased.candidates)
    return parts.method(
        (Phase(steps.weighted(step)),),
        memory=Table.full(np.asarray(confidences)),
        leave=lambda state: {_FILE: confidence_rows(parts.data, state)},
        summarize=lambda folder: transductive_accuracy(parts.data, folder),
    )


def confidence_rows(data: Data, state: MetaState) -> np.ndarray:
    """Orders the confidences by example id.

    Args:
        data: the run's data.
        state: its `memory` holds the confidences [N, C] of the run's examples.

    Returns:
        [training split, C] float32; zeros for examples that the bias left out.
    """
    rows = np.zeros((len(data.true_labels), data.source.num_classes), np.float32)
    rows[data.biased.ids] = state.memory.values
    return rows


def transductive_accuracy(data: Data, folder: Path) -> dict[str, float]:
    """Computes how often the most confident candidate of a training example is its true class.

    Args:
        data: the run's data.
        folder: the run's folder, which contains its confidences.

    Returns:
        `transductive_accuracy_percent`; empty if the true labels are not known.
    """
    if not data.biased.truth_known:
        return {}
    confidences = read_confidences(folder)[data.biased.ids]
    right = np.argmax(confidences, axis=1) == data.biased.true
    return {"transductive_accuracy_percent": float(100 * np.mean(right))}


def check_data(config: ConfigDict, data: Data) -> None:
    """Raises a UsageError for data with single labels."""
    if data.biased.candidates is None:
        raise UsageError(
            f"method is {config.method!r}, which learns from candidate sets, but {data.record.name!r} gives "
            f"single labels: set data.bias to e.g. 'partial_10'"
        )


SPEC = Spec("proden", build, check_data=check_data, follows_warmup=lambda config: False)
