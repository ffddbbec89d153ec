"""The table of training examples by how suspicious their labels are."""

import os
from collections.abc import Sequence

import numpy as np

from cmwnet_jax.audit import scores
from cmwnet_jax.audit.estimate import contradicted, wrong_probability
from cmwnet_jax.audit.examples import Examples, Table, read_examples
from cmwnet_jax.errors import UsageError

COLUMNS = (
    "rank",
    "id",
    "path",
    "given",
    "suggested",
    "score",
    "weight",
    "loss",
    "margin",
    "meta_class",
)
"""Columns of `find_suspects` and suspects.csv."""


def find_suspects(
    run: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    top: int | None = None,
    score: str = scores.AUTO,
) -> Table:
    """Ranks the training examples of a finished run by how suspicious their labels are, the most first.

    Args:
        run: the run's folder, or several of runs that differ in the seed, which are averaged.
        top: the number of examples; None for all.
        score: one of `audit.scores.SCORES`; auto: by pseudo-labels where the run has them, else by mean loss.

    Returns:
        Columns by name, all of the same length, e.g. for `pandas.DataFrame(table)`: `rank` int, from 1; `id`,
        the data set's own name of the example, or its row in the training split if it has none; `path` str,
        its file, or empty; `given` str, the name of the given class; `suggested` str, the most likely other
        class, according to the pseudo-label, or else the final classifier; `score` float, higher is more
        suspicious; `weight` float, in the last epoch (1 where the runs learned none); `loss` (nats) and
        `margin` float, means over all epochs: the margin is log(p / (1 - p)) with p = exp(-loss), for
        cross-entropy the given class's logit minus the log-sum-exp of the others; `meta_class` int.

    Raises:
        UsageError: a run cannot be used, `top` is less than 1 or `score` unknown.

    Example:
        >>> import cmwnet_jax as cmw
        >>> table = cmw.find_suspects("runs/digits/cmwnet", top=20)  # doctest: +SKIP
        >>> table["id"][:3], table["suggested"][:3]  # doctest: +SKIP
    """
    return list_suspects(read_examples(run), top, score)


def list_suspects(examples: Examples, top: int | None = None, score: str = scores.AUTO) -> Table:
    """The table of `find_suspects` for examples that have been read.

    Args:
        examples: the examples.
        top: as in `find_suspects`.
        score: as in `find_suspects`.

    Raises:
        UsageError: `top` is less than 1 or `score` unknown.
    """
    if top is not None and (not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1):
        raise UsageError(f"top is {top!r}, expected a whole number from 1: leave it out for all examples")
    ranked = rank_examples(examples, score)
    return {name: ranked[name][:top] for name in COLUMNS}


def rank_examples(examples: Examples, score: str = scores.AUTO) -> Table:
    """Sorts a table of examples by score; ties stay in the order of the data set.

    Args:
        examples: the examples.
        score: as in `find_suspects`.

    Returns:
        The columns of `find_suspects`, and those of `examples.table` that are not among them;
        `wrong_probability` [N] float; `given_class` and `suggested_class` [N] int, the indices of the classes.
    """
    table = examples.table
    values = scores.score(table, scores.chosen(score, examples.from_pseudo_labels))
    order = np.argsort(-values, kind="stable")
    names = np.array(examples.class_names)
    columns = {
        **table,
        "score": values,
        "given": names[table["given"]],
        "suggested": names[table["other"]],
        "given_class": table["given"],
        "suggested_class": table["other"],
        "weight": filled_weights(table),
        "wrong_probability": wrong_probability(values, contradicted(table)),
    }
    del columns["other"]
    ranked = {name: column[order] for name, column in columns.items()}
    return {"rank": np.arange(1, len(order) + 1), **ranked}


def filled_weights(table: Table) -> np.ndarray:
    """The weights [N] float32, also of examples that the last epoch left out with its last, partial batch.

    These get the weight of the example of their meta-class whose mean loss is nearest to theirs; if never
    visited, their meta-class's median. All stay NaN if all are.

    Args:
        table: `weight` [N] float, if weights were learned, `loss` [N] float and `meta_class` [N] int.
    """
    weights = table.get("weight")
    if weights is None:
        return np.ones(len(table["meta_class"]), np.float32)
    weights, unknown = weights.copy(), np.isnan(weights)
    if unknown.all():
        return weights
    for meta_class in np.unique(table["meta_class"][unknown]):
        members = table["meta_class"] == meta_class
        known = members & ~unknown if np.any(members & ~unknown) else ~unknown
        losses = table["loss"][members & unknown]
        nearest = _of_nearest(table["loss"][known], table["weight"][known], losses)
        weights[members & unknown] = np.where(np.isnan(losses), np.median(table["weight"][known]), nearest)
    return weights


def _of_nearest(losses: np.ndarray, weights: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The weights [m] at the losses that are nearest to the wanted ones [m]."""
    order = np.argsort(losses, kind="stable")
    ascending = losses[order]
    return weights[order][np.searchsorted((ascending[1:] + ascending[:-1]) / 2, wanted, side="right")]
