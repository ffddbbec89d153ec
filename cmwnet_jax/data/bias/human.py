"""Human annotators' labels, e.g. CIFAR-10N's and CIFAR-100N's."""

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.data.bias.labels import BiasedLabels, rows_by_id
from cmwnet_jax.data.sources import check_labels
from cmwnet_jax.errors import UsageError


def human_labels(labels: BiasedLabels, human: ArrayLike, clean: ArrayLike | None = None) -> BiasedLabels:
    """Replaces the given labels by those of human annotators; earlier noise on these examples is lost.

    Args:
        labels: the examples.
        human: [training split] int in [0, C), rows by id.
        clean: [training split] int, the true labels that came with `human`. They are compared with the data
            set's, because CIFAR-10N's files and tfds's CIFAR-10 differ in order (Q47).

    Raises:
        UsageError: too few rows, labels that are not classes, or another order of examples.
    """
    human = np.asarray(human)
    check_labels(human, labels.num_classes, "human labels")
    given = rows_by_id("human labels", human, labels)
    if clean is not None:
        own = ~labels.is_foreign
        differ = rows_by_id("human labels: clean", np.asarray(clean), labels)[own] != labels.true[own]
        if differ.any():
            raise UsageError(
                f"human labels: the true labels that came with them differ from the data set's at "
                f"{differ.sum()} of {len(differ)} examples, first id {labels.ids[own][differ][0]}: "
                f"bring both into the same order"
            )
    return labels.relabel(given)
