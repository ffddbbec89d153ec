"""Class weights and margins from the class sizes (baselines of Sec. 4.1)."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.core.lookup import looked_up
from cmwnet_jax.errors import UsageError


def checked_counts(class_counts: ArrayLike, *, counted: bool = False) -> np.ndarray:
    """Checks the class sizes and converts them to float64.

    Args:
        class_counts: [C] non-negative integers.
        counted: whether they are known to be counts. Otherwise many very small classes are refused, since they
            look like labels.

    Returns:
        [C] float64.

    Raises:
        UsageError: they are not such numbers, or look like the examples' labels.
    """
    try:
        counts = np.asarray(class_counts, np.float64)
    except (TypeError, ValueError):
        counts = np.full(1, np.nan)
    whole = np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts))
    if counts.ndim != 1 or not len(counts) or not whole.all():
        raise UsageError(
            f"class_counts is {' '.join(repr(class_counts).split())[:100]}, expected one non-negative whole "
            f"number per class: pass np.bincount(labels, minlength=num_classes)"
        )
    if not counted and _look_like_labels(counts):
        raise UsageError(
            f"class_counts has {len(counts)} numbers from 0 to {counts.max():.0f}, which look like labels, "
            f"expected one count per class: pass np.bincount(labels, minlength=num_classes)"
        )
    return counts


def _look_like_labels(counts: np.ndarray) -> bool:
    """Whether the numbers are implausible as class sizes and look like labels.

    Labels use most numbers from 0 to their largest, each many times, and 0 about as often as the others. Read
    as counts, these would be far more classes than the largest class has examples, many of them empty, and
    not in descending order, as the counts of a long tail are.
    """
    numbers = counts.max() + 1
    many = len(counts) >= 20 * numbers
    used = len(np.unique(counts)) >= numbers / 2 and np.mean(counts == 0) >= 0.6 / numbers
    return bool(many and used and np.any(counts[1:] > counts[:-1]))


def class_balanced_weights(
    class_counts: ArrayLike, *, beta: float = 0.9999, counted: bool = False
) -> np.ndarray:
    """Weights inverse to each class's effective number of examples (Cui et al. 2019; CB of Table 1).

    `(1 - beta) / (1 - beta^n_c)`, divided by its mean over the classes that have examples.

    Args:
        class_counts: [C] non-negative integers, examples per given label.
        beta: in [0, 1); 0 weights all classes equally, values near 1 by inverse class size.
        counted: as in `checked_counts`.

    Returns:
        [C] float64; 0 for a class without examples.

    Raises:
        UsageError: beta or the counts are out of range, or every class is empty.

    Example:
        >>> class_balanced_weights([100, 300, 0], beta=0.0)
        array([1., 1., 0.])
    """
    if not 0 <= beta < 1:
        raise UsageError(f"class_balanced_weights: beta is {beta!r}, expected a number in [0, 1), as 0.9999")
    counts = _counts_with_examples("class_balanced_weights", class_counts, counted)
    present = counts > 0
    inverse = (1 - beta) / (1 - beta ** np.where(present, counts, 1))
    return np.where(present, inverse / inverse[present].mean(), 0.0)


def ldam_margins(
    class_counts: ArrayLike, *, largest: float = 0.5, scale: float = 30.0, counted: bool = False
) -> np.ndarray:
    """Margins that shrink with the fourth root of the class size (Cao et al. 2019).

    `scale * largest * (min n / n_c)^(1/4)`, in the units of the logits for `ldam`.

    Args:
        class_counts: [C] non-negative integers, examples per given label.
        largest: positive, the smallest class's margin between cosines.
        scale: positive, the factor by which the normalised head multiplies cosines; 1 for unscaled logits.
        counted: as in `checked_counts`.

    Returns:
        [C] float64. For a class without examples the rule would be infinite; it gets the margin of the
        smallest non-empty class.

    Raises:
        UsageError: an argument is not positive, or the counts are out of range or all 0.

    Example:
        >>> ldam_margins([16, 1, 0], scale=1.0)
        array([0.25, 0.5 , 0.5 ])
    """
    for name, value in (("largest", largest), ("scale", scale)):
        if not 0 < value < np.inf:
            raise UsageError(f"ldam_margins: {name} is {value!r}, expected a positive number")
    counts = _counts_with_examples("ldam_margins", class_counts, counted)
    smallest = counts[counts > 0].min()
    return scale * largest * (smallest / np.maximum(counts, smallest)) ** 0.25


def for_labels(values: ArrayLike, labels: jax.Array) -> jax.Array:
    """The value of each example's class; for a soft label, the mean over its distribution.

    Args:
        values: [C] float.
        labels: [n] int class indices, or [n, C] float distributions.

    Returns:
        [n] float with the dtype of `values`; NaN for a class index outside of [0, C).
    """
    values = jnp.asarray(values)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return labels.astype(values.dtype) @ values
    return looked_up(values, labels, jnp.nan)


def _counts_with_examples(function: str, class_counts: ArrayLike, counted: bool) -> np.ndarray:
    counts = checked_counts(class_counts, counted=counted)
    if not counts.any():
        raise UsageError(f"{function}: class_counts are all 0, expected examples in at least one class")
    return counts
