"""Selective classification: SelectiveNet's objective, with weighted auxiliary losses (E.3).

A classifier f abstains where its selection function g is below a threshold. SelectiveNet (Geifman and El-Yaniv
2019) trains f, g and an auxiliary classifier h on common features, for one coverage.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.objectives import mean_over_axis, meta_class_of, outputs_in_train_mode
from cmwnet_jax.core.types import MetaLossFn, Objective, ObjectiveFn, entry
from cmwnet_jax.errors import UsageError

_LEAST_COVERAGE = 1e-12


class ThreeHeads(NamedTuple):
    """The outputs of a model with three heads.

    Attributes:
        logits: [n, C] float, of f, which classifies.
        selection: [n] float, of g before its sigmoid: the higher, the sooner f's prediction is accepted.
        auxiliary: [n, C] float, logits of h, which is only used in training.
    """

    logits: jax.Array
    selection: jax.Array
    auxiliary: jax.Array


def selective_loss(
    losses: jax.Array,
    selected: jax.Array,
    *,
    coverage: float,
    strength: float,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """The loss L(f, g) of a selective classifier: selective risk, plus a penalty for too low coverage (E.3).

    `mean(losses * selected) / mean(selected) + strength * max(0, coverage - mean(selected)) ** 2`

    As in the text of both papers, the risk is divided by the coverage; SelectiveNet's published code leaves
    that out. A coverage below 1e-12 counts as 1e-12, so that the risk stays finite.

    Args:
        losses: [n] float, of f.
        selected: [n] float in [0, 1], g.
        coverage: c, the target, in (0, 1].
        strength: lambda; 32 in SelectiveNet.
        axis_name: the step's device axis, if any; the means are over the examples of all devices.

    Returns:
        Scalar.

    Raises:
        UsageError: the coverage is not in (0, 1], or losses and selected differ in shape.

    Example:
        >>> import jax.numpy as jnp
        >>> losses, selected = jnp.array([4.0, 2.0]), jnp.array([0.25, 0.75])
        >>> float(selective_loss(losses, selected, coverage=0.75, strength=32.0))  # 2.5 + 32 * 0.25 ** 2
        4.5
    """
    if not 0 < coverage <= 1:
        raise UsageError(f"selective_loss: coverage is {coverage!r}, expected a number in (0, 1], such as 0.8")
    if jnp.shape(losses) != jnp.shape(selected):
        raise UsageError(
            f"selective_loss: losses have shape {jnp.shape(losses)} and selected {jnp.shape(selected)}, "
            f"expected [n] of both: squeeze the selection head's output"
        )
    covered = mean_over_axis(selected, axis_name)
    risk = mean_over_axis(losses * selected, axis_name) / jnp.maximum(covered, _LEAST_COVERAGE)
    return risk + strength * jnp.maximum(0, coverage - covered) ** 2


def selective_objective(
    apply_fn: Callable,
    meta_classes: MetaClasses,
    *,
    coverage: float,
    alpha: float = 0.5,
    strength: float = 32.0,
    axis_name: str | tuple[str, ...] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> ObjectiveFn:
    """SelectiveNet's objective with a weight per auxiliary loss (E.3.2).

    base is `alpha * L(f, g)`, terms are `(1 - alpha)` times h's cross-entropies, and losses are h's
    cross-entropies. With weights 1 / n it is SelectiveNet's own objective (E.3.1).

    Args:
        apply_fn: as in `classification_objective`, but with `ThreeHeads` as outputs.
        meta_classes: the meta-class of each of the C classes.
        coverage, strength: as in `selective_loss`.
        alpha: the share of L(f, g), in (0, 1).
        axis_name: the step's device axis, which it must have too, since L(f, g) is not a mean over examples.
        train_kwargs: as in `classification_objective`.

    Returns:
        An `objective` for batches with `image` and `label`.
    """
    forward = _in_train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        label = entry(batch, "label")
        heads, model_state = forward(params, model_state, entry(batch, "image"), rng)
        losses = cross_entropy(heads.auxiliary, label)
        base = alpha * _loss_of(heads, label, coverage, strength, axis_name)
        meta_class = meta_class_of(meta_classes, label, heads.auxiliary.shape[-1])
        return Objective((1 - alpha) * losses, losses, meta_class, base), model_state

    objective.num_meta_classes = meta_classes.num_meta_classes
    return objective


def selective_meta_loss(
    apply_fn: Callable,
    *,
    coverage: float,
    strength: float = 32.0,
    axis_name: str | tuple[str, ...] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> MetaLossFn:
    """L(f, g) on a meta batch, the upper level of E.3.2: without the auxiliary head, which is for training.

    The weights act on it through the features, which the heads share.

    Args:
        apply_fn, coverage, strength, axis_name, train_kwargs: as in `selective_objective`.
    """
    forward = _in_train_mode(apply_fn, train_kwargs)

    def meta_loss(params, model_state, meta_batch, rng):
        image, label = (entry(meta_batch, name, "meta batch") for name in ("image", "label"))
        heads, _ = forward(params, model_state, image, rng)
        return _loss_of(heads, label, coverage, strength, axis_name)

    return meta_loss


def _in_train_mode(apply_fn: Callable, train_kwargs: Mapping[str, Any] | None) -> Callable:
    """As `train_mode`, of models with three heads."""
    outputs_of = outputs_in_train_mode(apply_fn, train_kwargs)

    def forward(params, model_state, inputs, rng):
        heads, model_state = outputs_of(params, model_state, inputs, rng)
        if not isinstance(heads, ThreeHeads):
            raise UsageError(
                f"apply_fn gave a {type(heads).__name__}, expected ThreeHeads, or with mutable "
                f"(ThreeHeads, new model_state): put three heads on the model's features"
            )
        return heads, model_state

    return forward


def _loss_of(heads: ThreeHeads, label: jax.Array, coverage: float, strength: float, axis_name) -> jax.Array:
    losses, selected = cross_entropy(heads.logits, label), jax.nn.sigmoid(heads.selection)
    return selective_loss(losses, selected, coverage=coverage, strength=strength, axis_name=axis_name)
