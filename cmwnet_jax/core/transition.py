"""Estimated transition matrices of label noise, for Forward correction (baseline of Sec. 4.2).

If the true labels are known, use `BiasedLabels.transition_matrix` instead, which counts.
"""

import numpy as np

from cmwnet_jax.errors import UsageError


def estimate_transition(probabilities: np.ndarray, *, percentile: float = 97.0) -> np.ndarray:
    """Estimates P(given | true) from the predictions of a classifier trained on *given* labels.

    The anchor of a class is an example that certainly belongs to it. The anchor's predictions are the class's
    row (Patrini et al. 2017). The most confident example may be an outlier, so a percentile selects one below
    it. The percentile is taken among the examples predicted as the class. Among *all* examples, it would miss
    every class smaller than the fraction above it, as with 100 classes or in a long tail.

    Args:
        probabilities: [N, C] float, each row a distribution.
        percentile: in [0, 100], the anchor's rank among the examples predicted as its class; rounded to the
            nearest rank, ties go to the first example. 100 is the most confident example. A class that is
            never predicted uses its most confident example.

    Returns:
        [C, C] float64, rows true and columns given classes; rows sum to one.

    Raises:
        UsageError: the percentile is out of range, or a row is not a distribution.

    Example:
        >>> estimate_transition(np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]), percentile=100)
        array([[0.75, 0.25],
               [0.  , 1.  ]])
    """
    if not 0 <= percentile <= 100:
        raise UsageError(f"estimate_transition: percentile is {percentile!r}, expected a number in [0, 100]")
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not p.size or not (np.all(p >= 0) and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise UsageError(
            f"estimate_transition: probabilities of shape {p.shape}, expected [N, C] with N at least 1, "
            f"each row non-negative and summing to one: take the softmax of the logits"
        )
    predicted = np.bincount(np.argmax(p, axis=1), minlength=p.shape[1])
    below_the_top = np.round((1 - percentile / 100) * np.maximum(predicted - 1, 0)).astype(int)
    order = np.argsort(-p, axis=0, kind="stable")
    anchors = order[below_the_top, np.arange(p.shape[1])]
    return p[anchors] / p[anchors].sum(axis=1, keepdims=True)
