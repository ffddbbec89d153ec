"""PRODEN (Lv et al. 2020): trains a classifier and its confidences in the candidate labels together (Sec. 7.1).

It is the first stage of the paper's partial-label learning (E.1). The second stage trains on the most likely
classes of its confidences.
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
    """PRODEN's initial confidences: uniform over each example's candidates.

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
        raise UsageError(f"candidates: row {row} has none, expected at least one candidate per example")
    return (candidates / sizes).astype(np.float32)


def updated_confidences(confidences: jax.Array, logits: jax.Array) -> jax.Array:
    """The classifier's probabilities restricted to the candidates, normalised.

    They are computed as the softmax over the candidates' logits, which is defined even if all candidates'
    probabilities round to 0. A candidate's confidence is kept above 0, because a confidence of 0 marks the
    classes that are not candidates.

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

    The same forward pass gives the confidences for the next visit. Both terms and losses are these losses;
    use the objective in a weighted step, with or without weights.

    Args:
        apply_fn, meta_classes, train_kwargs: as in `classification_objective`.

    Returns:
        An `objective` for batches with `image`, `label` [n] int (used for the meta-class only) and `memory`
        [n, C] (see `table.remembering`), the current confidences: positive for the candidates and 0 for all
        other classes. Its `aux` is the new confidences [n, C].
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
