"""Settings that small data sets cannot have as they are."""

import numpy as np


def lowered(
    batch_size: int,
    num_meta_classes: int,
    class_counts: np.ndarray,
    *,
    shared_by: int = 1,
    learned: bool = False,
) -> dict[str, int]:
    """Lowers what does not fit a small data set.

    Args:
        batch_size: examples per step; at most as many as there are.
        num_meta_classes: K; at most the number of distinct class sizes, since K-means could not tell more
            apart.
        class_counts: [C] int, training examples per class.
        shared_by: the devices that a lowered batch is shared by, if it has an example for each.
        learned: whether the weight net was learned elsewhere (`weight_net.init`), so that K is its own.

    Returns:
        Values by config field.

    Example:
        >>> lowered(100, 3, np.array([30, 29]), shared_by=8)
        {'batch_size': 56, 'weight_net.num_meta_classes': 2}
    """
    examples = int(np.sum(class_counts))
    if examples < batch_size:
        batch_size = examples // shared_by * shared_by or examples
    most = num_meta_classes if learned else len(np.unique(class_counts))
    return {"batch_size": batch_size, "weight_net.num_meta_classes": min(num_meta_classes, most)}
