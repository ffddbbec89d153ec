"""Transition matrices of label noise, as Forward correction needs them (Sec. 4.2's baselines).

Where the truth is known, `BiasedLabels.transition_matrix` counts it; here it is estimated without.
"""

import numpy as np

from cmwnet_jax.errors import UsageError


def estimate_transition(probabilities: np.ndarray, *, percentile: float = 97.0) -> np.ndarray:
    """P(given | true) from the predictions of a classifier of *given* labels.

    A class's anchor is an example that is sure to be of it; its predictions are the class's row (Patrini et
    al. 2017). The surest of all may be an outlier, so that a percentile takes one below: here among
    the examples whose likeliest class it is, since a percentile of *all* examples leaves every class that
    has fewer of them than the rest of it, as with 100 classes or in a long tail.

    Args:
        probabilities: [N, C] float, each row a distribution.
        percentile: in [0, 100], the anchor's rank among the examples predicted to be of its class, of ranks
            the nearest, of examples alike the first; 100 is the surest. A class that is never predicted takes
            its surest example.

    Returns:
        [C, C] float64, rows true and columns given classes; rows sum to one.

    Raises:
        UsageError: the percentile is out of range, or the rows are no distributions.

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
