"""Scores of how suspicious each given label is: pure functions of a table of examples.

A higher score is more suspicious. An example that was never visited, whose loss is not known, gets the median.
"""

from collections.abc import Callable, Mapping

import numpy as np

from cmwnet_jax.errors import UsageError, unknown_name

Columns = Mapping[str, np.ndarray]


def mean_loss(table: Columns) -> np.ndarray:
    """The mean loss over all epochs: the loss of wrong labels stays high until they are memorised.

    Args:
        table: `loss` [N] float.

    Returns:
        [N] float; higher is more suspicious.
    """
    return _filled(table["loss"])


def last_loss(table: Columns) -> np.ndarray:
    """The loss in the last epoch, to compare with; wrong labels may be memorised by then.

    Args:
        table: `last_loss` [N] float.

    Returns:
        [N] float; higher is more suspicious.
    """
    return _filled(table["last_loss"])


def averaged_margin(table: Columns) -> np.ndarray:
    """Minus the given class's margin, averaged over all epochs (Pleiss et al. 2020, with a soft maximum).

    Args:
        table: `margin` [N] float.

    Returns:
        [N] float; higher is more suspicious.
    """
    return _filled(-table["margin"])


def label_probability(table: Columns) -> np.ndarray:
    """One minus the given class's probability: that of the pseudo-label, or else the final classifier's.

    Args:
        table: `given_probability` [N] float.

    Returns:
        [N] float; higher is more suspicious.
    """
    return 1 - table["given_probability"]


def weight_rank(table: Columns) -> np.ndarray:
    """Rank of minus the weight among the examples of the same meta-class, in (0, 1).

    Weights of different meta-classes come from different functions and are not compared.

    Args:
        table: `weight` [N] float and `meta_class` [N] int.

    Returns:
        [N] float; higher is more suspicious.
    """
    score = np.empty(len(table["weight"]))
    for meta_class in np.unique(table["meta_class"]):
        members = table["meta_class"] == meta_class
        score[members] = fractional_ranks(_filled(-table["weight"][members]))
    return score


def combined(table: Columns) -> np.ndarray:
    """The mean of three ranks: by mean loss, by label probability, and by weight within the meta-class.

    Without learned weights, it is the mean of the first two.

    Args:
        table: as for `mean_loss`, `label_probability` and `weight_rank`.

    Returns:
        [N] float; higher is more suspicious.
    """
    ranks = [fractional_ranks(mean_loss(table)), fractional_ranks(label_probability(table))]
    return np.mean([*ranks, *([weight_rank(table)] if "weight" in table else [])], axis=0)


SCORES: dict[str, Callable[[Columns], np.ndarray]] = {
    "mean_loss": mean_loss,
    "margin": averaged_margin,
    "label": label_probability,
    "weight": weight_rank,
    "combined": combined,
}
"""Name -> score. Chosen by `experiments/audit_table.py` over runs whose wrong labels are known."""

AUTO = "auto"
"""`label` for runs with pseudo-labels, which are averages over the epochs themselves; else `mean_loss`."""


def chosen(name: str, has_pseudo_labels: bool) -> str:
    """Resolves `AUTO` and checks the name of a score.

    Args:
        name: one of `SCORES`, or `AUTO`.
        has_pseudo_labels: whether the probabilities of the table are those of pseudo-labels.

    Raises:
        UsageError: the name is unknown.
    """
    if not isinstance(name, str) or name not in (AUTO, *SCORES):
        raise unknown_name("score", name, (AUTO, *SCORES))
    if name != AUTO:
        return name
    return "label" if has_pseudo_labels else "mean_loss"


def score(table: Columns, name: str) -> np.ndarray:
    """Scores a table of examples.

    Args:
        table: columns [N], as `Examples.table`.
        name: one of `SCORES`.

    Returns:
        [N] float64.

    Raises:
        UsageError: the score is that of weights and the runs learned none.
    """
    if name == "weight" and "weight" not in table:
        raise UsageError(
            f"score is {name!r}, but the run learned no weights: choose one of "
            f"{', '.join(other for other in SCORES if other != name)}, or a run of a method that does"
        )
    return SCORES[name](table).astype(np.float64)


def fractional_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1): the share of smaller values, with half of the equal ones.

    Args:
        values: [n] float without NaN.

    Example:
        >>> fractional_ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist()
        [0.5, 0.125, 0.5, 0.875]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(values))[place]


def _filled(values: np.ndarray) -> np.ndarray:
    """Replaces NaN by the median of the others."""
    unknown = np.isnan(values)
    if unknown.all():
        return np.zeros(len(values))
    return np.where(unknown, np.median(values[~unknown]), values) if unknown.any() else values
