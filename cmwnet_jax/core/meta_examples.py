"""Choice of meta examples from biased data (Sec. 4.2)."""

import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.errors import UsageError


def lowest_loss(losses: ArrayLike, labels: ArrayLike, num_classes: int, per_class: int) -> np.ndarray:
    """Selects the examples of lowest loss per given class: a meta set without clean data (Sec. 4.2).

    Runs on the host, between epochs: the result differs in length by class sizes.

    Args:
        losses: [N] float, e.g. under the current classifier; NaN counts as the highest. Of equal losses, the
            first row comes first.
        labels: [N] int in [0, C), given labels.
        num_classes: C.
        per_class: examples per class, at least 1; of a smaller class, all are taken.

    Returns:
        Ascending rows [M] int64, at most C * per_class.

    Raises:
        UsageError: losses and labels differ in length, a label is no class, or a number is below 1.

    Example:
        >>> lowest_loss([0.3, 0.1, 0.2, 5.0], [0, 1, 0, 1], num_classes=2, per_class=1).tolist()
        [1, 2]
    """
    losses, labels = np.asarray(losses, np.float64), np.asarray(labels)  # NaN is not last in bfloat16
    for name, number in (("num_classes", num_classes), ("per_class", per_class)):
        if number < 1:
            raise UsageError(f"lowest_loss: {name} is {number}, expected at least 1")
    if losses.shape != labels.shape or losses.ndim != 1:
        raise UsageError(f"lowest_loss: losses of shape {losses.shape}, expected one a label, {labels.shape}")
    if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
        raise UsageError(
            f"lowest_loss: labels are {labels.dtype} and up to {labels.max(initial=0)}, expected class indices "
            f"from 0 to {num_classes - 1}: convert them or set num_classes"
        )
    order = np.argsort(losses, kind="stable")
    rows = [order[labels[order] == c][:per_class] for c in range(num_classes)]
    return np.sort(np.concatenate(rows))
