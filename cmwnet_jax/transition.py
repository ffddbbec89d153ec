"""Transition matrices of label noise, as Forward correction needs them (Sec. 4.2's baselines).

Where the truth is known, `BiasedLabels.transition_matrix` counts it; here it is estimated without.
"""

import numpy as np

from cmwnet_jax.errors import UsageError


def estimate_transition(probabilities: np.ndarray, *, percentile: float = 97.0) -> np.ndarray:
    """P(given | true) from the predictions of a classifier of *given* labels.

    A class's anchor is the example that is surest to be given it; its predictions are the class's row
    (Patrini et al. 2017). The surest of all may be an outlier, so that a percentile takes one below.

    Args:
        probabilities: [N, C] float, each row a distribution.
        percentile: in [0, 100], the anchor's rank among the N examples by its probability of the class, of
            ranks the nearest, of examples alike the first; 100 is the surest.

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
    below_the_top = round((1 - percentile / 100) * (len(p) - 1))
    anchors = np.argsort(-p, axis=0, kind="stable")[below_the_top]
    return p[anchors] / p[anchors].sum(axis=1, keepdims=True)
