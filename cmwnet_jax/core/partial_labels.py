"""PRODEN (Lv et al. 2020): a classifier and its confidences in candidate labels teach each other (Sec. 7.1).

It is the first stage of the paper's partial-label learning (E.1); its confidences' most likely classes
are the single labels that the second stage is given.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.objectives import meta_class_of, train_mode
from cmwnet_jax.core.types import Objective, ObjectiveFn, entry
from cmwnet_jax.errors import UsageError


def uniform_confidences(candidates: np.ndarray) -> np.ndarray:
    """What PRODEN starts from: each candidate as likely as the others.

    Args:
        candidates: [N, C] bool.

    Returns:
        [N, C] float32, rows that sum to one.

    Raises:
        UsageError: an example has no candidate.
    """
    sizes = np.sum(candidates, axis=1, keepdims=True)
    if not np.all(sizes):
        row = int(np.flatnonzero(sizes == 0)[0])
        raise UsageError(f"candidates: row {row} has none, expected at least one candidate an example")
    return (candidates / sizes).astype(np.float32)


def updated_confidences(confidences: jax.Array, logits: jax.Array) -> jax.Array:
    """The classifier's probabilities on the candidates alone, normalised.

    They are the softmax over the candidates' logits, which is the same and stays defined where the
    classifier gives all candidates a probability of 0 in its precision. A candidate's confidence is kept
    above 0, since that is what tells it from the other classes; so none is ever ruled out for good.

    Args:
        confidences: [n, C] float, positive for the candidates and 0 for all others.
        logits: [n, C] float.

    Returns:
        [n, C] float of the logits' dtype, without gradient.
    """
    is_candidate = confidences > 0
    new = jax.nn.softmax(jnp.where(is_candidate, logits, -jnp.inf), axis=-1)
    least = jnp.finfo(confidences.dtype).tiny
    return jax.lax.stop_gradient(jnp.where(is_candidate, jnp.maximum(new, least), 0))


def proden_objective(
    apply_fn: Callable, meta_classes: MetaClasses, train_kwargs: Mapping[str, Any] | None = None
) -> ObjectiveFn:
    """Progressive identification: `loss_i = -sum_c confidence_ic log p_ic` (Sec. 7.1.1).

    The confidences of the next visit come from the same forward pass. For the weighted step without
    weights, or with any: terms and losses are both these losses.

    Args:
        apply_fn, meta_classes, train_kwargs: as in `classification_objective`.

    Returns:
        An `objective` of batches with `image`, `label` [n] int (whose meta-class counts, nothing else) and
        `memory` [n, C] (see `memory.remembering`), the confidences so far: positive for the candidates and
        0 for all others; its `aux` is the new confidences [n, C].
    """
    forward = train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        confidences, label = entry(batch, "memory"), entry(batch, "label")
        logits, model_state = forward(params, model_state, entry(batch, "image"), rng)
        losses = cross_entropy(logits, confidences.astype(logits.dtype))
        meta_class = meta_class_of(meta_classes, label, logits.shape[-1])
        new = updated_confidences(confidences, logits)
        return Objective(losses, losses, meta_class, aux=new), model_state

    objective.num_meta_classes = meta_classes.num_meta_classes
    return objective
