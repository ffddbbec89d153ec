"""A run's data made from arrays, without a prepared data set."""

from collections.abc import Sequence

import numpy as np

from cmwnet_jax.data import bias, kinds, sources
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.bias_record import Record
from cmwnet_jax.data.load import Data

NAME = "arrays"


def data_in_memory(inputs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Data:
    """Makes the data of a run that trains on all examples and tests on none.

    The labels count as given, and the true ones as unknown.

    Args:
        inputs: [N, ...] of a dtype in `kinds.DTYPES`.
        labels: [N] int in [0, C).
        class_names: C names.

    Raises:
        UsageError: a label is not a class.
    """
    kind = kinds.kind_of(inputs.dtype)
    vocabulary = 1 + int(inputs.max()) if kind == kinds.TOKENS else 0
    given = bias.BiasedLabels.clean(labels, len(class_names), truth_known=False)
    return Data(
        source=sources.Source(NAME, tuple(class_names), {}, "test", folder="", vocabulary=vocabulary),
        record=Record(given, name="none", seed=0, dataset=NAME),
        true_labels=given.true,
        splits={"train": Raw.whole(inputs, given.given)},
        test_labels=np.zeros(0, np.int32),
        image_shape=inputs.shape[1:],
        kind=kind,
    )
