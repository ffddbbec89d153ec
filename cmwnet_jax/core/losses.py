"""Per-example losses: each returns [n] and never reduces."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp
from numpy.typing import ArrayLike

from cmwnet_jax.core.lookup import looked_up, loud
from cmwnet_jax.errors import UsageError

LossFn = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [n, C], labels [n] int or [n, C] float) -> [n]."""

_ELR_FLOOR = 1e-4  # distance that probabilities keep from 0 and 1, as in the ELR authors' code


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy per example (Sec. 3.1), for hard or soft labels.

    Args:
        logits: [n, C] float.
        labels: [n] int class indices, or [n, C] float distributions.

    Returns:
        [n] float, in nats; NaN for a label that is not a class, and for a distribution where a logit is -inf:
        to take out a class, give it a large negative number there.

    Raises:
        UsageError: labels have another shape.
    """
    if _are_hard(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, loud(labels, logits.shape[-1]))
    return optax.softmax_cross_entropy(logits, labels)


def focal(logits: jax.Array, labels: jax.Array, *, gamma: float) -> jax.Array:
    """Focal loss, `-(1 - p_y)^gamma log p_y` with softmax probabilities (Lin et al. 2017; Table 1).

    Args:
        logits: [n, C] float, C at least 2.
        labels: [n] int class indices, or [n, C] float distributions; for these, the mean loss under the
            distribution.
        gamma: non-negative; 0 gives cross-entropy.

    Returns:
        [n] float.

    Raises:
        UsageError: gamma is negative.
    """
    if not 0 <= gamma < math.inf:
        raise UsageError(f"focal: gamma is {gamma!r}, expected a number of at least 0 (0 is cross-entropy)")
    # With logarithms: for gamma < 1, the slope of (1 - p)^gamma is infinite at a rounded p = 1.
    log_p = jax.nn.log_softmax(logits)
    is_out = jnp.isinf(log_p)  # a logit of -inf, whose loss would give all others a NaN as gradient
    by_class = -jnp.exp(gamma * _log_one_minus_p(logits)) * jnp.where(is_out, 0, log_p)
    return _mean_under(labels, jnp.where(is_out, jnp.inf, by_class))


def generalized_cross_entropy(logits: jax.Array, labels: jax.Array, *, q: float) -> jax.Array:
    """GCE, `(1 - p_y^q) / q` (Zhang & Sabuncu 2018; GCE of Tables 2 to 4).

    Args:
        logits: [n, C] float.
        labels: [n] int class indices, or [n, C] float distributions; for these, the mean loss under the
            distribution.
        q: in (0, 1]; the limit at 0 is cross-entropy, 1 gives `1 - p_y`.

    Returns:
        [n] float in [0, 1 / q].

    Raises:
        UsageError: q is not in (0, 1].
    """
    if not 0 < q <= 1:
        raise UsageError(
            f"generalized_cross_entropy: q is {q!r}, expected a number in (0, 1] (0.7 in its paper; for the "
            f"limit of 0 take cross_entropy)"
        )
    return _mean_under(labels, -jnp.expm1(q * jax.nn.log_softmax(logits)) / q)


def ldam(logits: jax.Array, labels: jax.Array, *, margins: ArrayLike) -> jax.Array:
    """Cross-entropy with a margin subtracted from the label's logit (Cao et al. 2019; LDAM of Table 1).

    Args:
        logits: [n, C] float, on the same scale as the margins.
        labels: [n] int class indices, or [n, C] float distributions, which subtract each class's margin
            times its probability.
        margins: [C] float, from `ldam_margins`.

    Returns:
        [n] float, in nats.

    Raises:
        UsageError: there is not one margin per class.
    """
    num_classes = logits.shape[-1]
    if np.shape(margins) != (num_classes,):
        raise UsageError(
            f"ldam: margins have shape {np.shape(margins)}, expected one per class, ({num_classes},): "
            f"take ldam_margins(class_counts)"
        )
    share = (
        jax.nn.one_hot(loud(labels, num_classes), num_classes, dtype=logits.dtype)
        if _are_hard(logits, labels)
        else labels
    )
    return cross_entropy(logits - share * jnp.asarray(margins, logits.dtype)[None], labels)


def forward_corrected(logits: jax.Array, labels: jax.Array, *, transition: ArrayLike) -> jax.Array:
    """Forward correction, `-log (T^T p)_y` (Patrini et al. 2017, Theorem 2; Forward of Table 2).

    Args:
        logits: [n, C] float, for the *true* class.
        labels: [n] int class indices, or [n, C] float distributions, of the given label.
        transition: [C, C] float, T, P(given = column | true = row). The row of a class without examples
            may be all 0, as in `BiasedLabels.transition_matrix`.

    Returns:
        [n] float, in nats; infinite for a label that has probability 0 under every true class.

    Raises:
        UsageError: T has another shape or, if its values are known, a row is not a distribution.
    """
    matrix = _checked_transition(transition, logits.shape[-1])
    log_p = jax.nn.log_softmax(logits)
    is_out = jnp.isinf(log_p)

    def loss(into_label):
        """`into_label`: [n, C] or [1, C], P(the label | true class)."""
        share = jnp.where(is_out & ~jnp.isnan(into_label), 0, into_label)
        is_impossible = jnp.all(share == 0, axis=-1)
        # The logarithm of 0 would give a NaN as gradient, also where a soft label has no share of it.
        share = jnp.where(is_impossible[:, None], 1, share)
        return jnp.where(is_impossible, jnp.inf, -logsumexp(jnp.where(is_out, 0, log_p), axis=-1, b=share))

    columns = jnp.asarray(matrix, logits.dtype).T
    if _are_hard(logits, labels):
        return loss(looked_up(columns, labels, jnp.nan))
    return _mean_under(labels, jax.vmap(loss, out_axes=1)(columns[:, None]))


def elr_regularizer(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Early-learning regularisation, `log(1 - <p, t>)` (Liu et al. 2020; ELR of Table 6).

    Add it to the cross-entropy, multiplied by lambda. The probabilities are clipped to [1e-4, 1 - 1e-4] and not
    normalised again, as in the authors' code. The logarithm thus stays above log(1e-4), and a class whose
    probability is almost 0 or 1 has no gradient.

    Args:
        logits: [n, C] float.
        targets: [n, C] float, t, from `elr_targets`; each row sums to at most 1. They get no gradient.

    Returns:
        [n] float, at most 0.
    """
    agreement = jnp.sum(_clipped_p(logits) * jax.lax.stop_gradient(targets), axis=-1)
    return jnp.log1p(-agreement)


def elr_targets(targets: jax.Array, logits: jax.Array, *, momentum: float) -> jax.Array:
    """Running mean of the examples' predictions, `momentum * t + (1 - momentum) * p` (Liu et al. 2020).

    Args:
        targets: [n, C] float, current targets of these examples; zeros before the first epoch.
        logits: [n, C] float, the new predictions; p is clipped as in `elr_regularizer`, then normalised.
        momentum: in [0, 1), the weight of the old targets.

    Returns:
        [n, C] float, without gradient.

    Raises:
        UsageError: momentum is not in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise UsageError(f"elr_targets: momentum is {momentum!r}, expected a number in [0, 1)")
    p = _clipped_p(logits)
    p = p / jnp.sum(p, axis=-1, keepdims=True)
    return jax.lax.stop_gradient(momentum * targets + (1 - momentum) * p)


def _are_hard(logits: jax.Array, labels: jax.Array) -> bool:
    """Whether labels are indices instead of distributions; a UsageError if they do not match the logits."""
    are_hard = jnp.issubdtype(labels.dtype, jnp.integer)
    shape = jnp.shape(logits)
    if not shape or shape[-1] < 2:
        raise UsageError(f"logits have shape {shape}, expected [n, C] with one for each of at least 2 classes")
    if jnp.shape(labels) != (shape[:-1] if are_hard else shape):
        raise UsageError(
            f"labels have shape {jnp.shape(labels)} and dtype {labels.dtype}, expected {shape[:-1]} integers "
            f"(class indices) or {shape} floats (distributions) beside such logits: squeeze or convert them"
        )
    return are_hard


def _mean_under(labels: jax.Array, by_class: jax.Array) -> jax.Array:
    """Selects the label's class from losses [n, C], or averages them over a soft label."""
    if _are_hard(by_class, labels):
        own = loud(labels, by_class.shape[-1])
        return jnp.take_along_axis(by_class, own[:, None], axis=-1)[:, 0]
    counted = jnp.where((labels == 0) & jnp.isinf(by_class), 0, by_class)  # 0 times infinity is 0 here
    return jnp.sum(labels * counted, axis=-1)


def _log_one_minus_p(logits: jax.Array) -> jax.Array:
    """`log(1 - softmax)`, [n, C], with finite gradients even if a probability rounds to 1.

    Only the likeliest class can be near 1; its complement is the sum of the other classes.
    """
    top = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    rivals = jnp.where(top, -jnp.inf, logits)
    is_alone = jnp.all(jnp.isinf(rivals), axis=-1)  # all other logits are -inf
    others = logsumexp(jnp.where(is_alone[:, None], logits, rivals), axis=-1) - logsumexp(logits, axis=-1)
    others = jnp.where(is_alone, jnp.finfo(logits.dtype).min, others)
    rest = jnp.log1p(-jnp.where(top, 0, jax.nn.softmax(logits)))
    return jnp.where(top, others[:, None], rest)


def _clipped_p(logits: jax.Array) -> jax.Array:
    return jnp.clip(jax.nn.softmax(logits), _ELR_FLOOR, 1 - _ELR_FLOOR)


def _checked_transition(transition: ArrayLike, num_classes: int) -> ArrayLike:
    """The matrix after checks; if it is traced, its values cannot be checked."""
    if np.shape(transition) != (num_classes, num_classes):
        raise UsageError(
            f"forward_corrected: transition has shape {np.shape(transition)}, expected a row and a column "
            f"per class, ({num_classes}, {num_classes})"
        )
    if not isinstance(transition, jax.core.Tracer):
        matrix = np.asarray(transition, np.float64)
        sums = matrix.sum(axis=1)
        if not (np.all(matrix >= 0) and np.all((np.abs(sums - 1) < 1e-4) | (sums == 0))):
            raise UsageError(
                f"forward_corrected: transition has rows that sum to {sums.min():g} up to {sums.max():g}, "
                f"expected non-negative rows P(given | true) that each sum to 1 (transposed, perhaps?)"
            )
    return transition
