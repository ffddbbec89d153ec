"""Objectives and meta losses of the usual kind, from a Linen-style `apply`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from cmwnet_jax.losses import LossFn, cross_entropy, elr_regularizer, elr_targets
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.types import MetaLossFn, Objective, ObjectiveFn


def classification_objective(
    apply_fn: Callable,
    meta_classes: MetaClasses,
    loss: LossFn = cross_entropy,
    train_kwargs: Mapping[str, Any] | None = None,
) -> ObjectiveFn:
    """CMW-Net's objective (Eq. 6): terms and losses are both the per-example losses, base is 0.

    Args:
        apply_fn: `model.apply` of a Linen module, or a function `(variables, inputs)` that gives logits
            [n, C]. It is passed `mutable` and `rngs={"dropout": key}`, with Linen's meaning, where it takes
            them; with `mutable` it gives (logits, new model_state).
        meta_classes: the meta-class of each of the C classes.
        loss: (logits [n, C], labels [n] or [n, C]) -> [n].
        train_kwargs: what puts the model into train mode, e.g. `{"deterministic": False}`; None passes
            `train=True` where the signature of the model, or of `apply_fn`, has such an argument.

    Returns:
        An `objective` for `make_meta_step`, of batches with the entries `image` (the model's
        input, [n, ...]) and `label` ([n] int in [0, C), or [n, C] float, whose most likely class counts
        for the meta-class).
    """
    forward = train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        label = batch["label"]
        logits, new_model_state = forward(params, model_state, batch["image"], rng)
        losses = loss(logits, label)
        meta_class = meta_class_of(meta_classes, label)
        return Objective(terms=losses, losses=losses, meta_class=meta_class), new_model_state

    return objective


def elr_objective(apply_fn: Callable, *, strength: float, momentum: float) -> ObjectiveFn:
    """Cross-entropy and early-learning regularisation (Liu et al. 2020; ELR of Table 6).

    Args:
        apply_fn: as in `classification_objective`.
        strength: lambda, what the regulariser is multiplied by.
        momentum: of the targets, in [0, 1).

    Returns:
        An `objective` of batches with `image`, `label` [n] int and `memory` [n, C] (see
        `memory.remembering`), whose `aux` is the new targets [n, C]. It has one meta-class.
    """
    forward = train_mode(apply_fn)

    def objective(params, model_state, batch, rng):
        logits, model_state = forward(params, model_state, batch["image"], rng)
        targets = elr_targets(batch["memory"].astype(logits.dtype), logits, momentum=momentum)
        losses = cross_entropy(logits, batch["label"])
        terms = losses + strength * elr_regularizer(logits, targets)
        return Objective(terms, losses, jnp.zeros_like(batch["label"]), aux=targets), model_state

    return objective


def with_meta_class(objective: ObjectiveFn, of_row: ArrayLike) -> ObjectiveFn:
    """The objective with meta-classes that are looked up by example instead of by label.

    Args:
        objective: of batches with `row` [n] int32.
        of_row: [N] int32, each training example's meta-class.
    """
    of_row = jnp.asarray(of_row)

    def looked_up(params, model_state, batch, rng):
        out, model_state = objective(params, model_state, batch, rng)
        return out._replace(meta_class=of_row[batch["row"]]), model_state

    return looked_up


def meta_class_of(meta_classes: MetaClasses, label: jax.Array) -> jax.Array:
    """The meta-class [n] int32 of each label; -1, which gets the weight NaN, for a label that is no class.

    Args:
        meta_classes: of C classes.
        label: [n] int, or [n, C] float, whose most likely class counts.
    """
    of_class = jnp.asarray(meta_classes.of_class)
    hard = label if jnp.issubdtype(label.dtype, jnp.integer) else jnp.argmax(label, axis=-1)
    # An unchecked gather would silently read another class's.
    return of_class.at[jnp.where(hard < 0, len(of_class), hard)].get(mode="fill", fill_value=-1)


def classification_meta_loss(
    apply_fn: Callable, loss: LossFn = cross_entropy, train_kwargs: Mapping[str, Any] | None = None
) -> MetaLossFn:
    """The mean loss on a meta batch (Eq. 5), in train mode, running statistics thrown away (Q18).

    Args:
        apply_fn: as in `classification_objective`.
        loss: (logits [m, C], labels [m] or [m, C]) -> [m].
        train_kwargs: as in `classification_objective`.
    """
    forward = train_mode(apply_fn, train_kwargs)

    def meta_loss(params, model_state, meta_batch, rng):
        logits, _ = forward(params, model_state, meta_batch["image"], rng)
        return jnp.mean(loss(logits, meta_batch["label"]))

    return meta_loss


def train_mode(apply_fn: Callable, train_kwargs: Mapping[str, Any] | None = None) -> Callable:
    """(params, model_state, inputs, rng) -> (logits [n, C], new model_state), in train mode.

    Args:
        apply_fn, train_kwargs: as in `classification_objective`.
    """
    names = _argument_names(apply_fn)
    if train_kwargs is None:
        train_kwargs = {"train": True} if "train" in names else {}

    def forward(params, model_state, inputs, rng):
        linen = {"mutable": list(model_state), "rngs": {"dropout": rng}}
        taken = {name: value for name, value in linen.items() if name in names}
        out = apply_fn({"params": params, **model_state}, inputs, **taken, **train_kwargs)
        if not isinstance(out, tuple):
            return out, model_state
        logits, new_model_state = out
        return logits, type(model_state)(new_model_state)

    return forward


def _argument_names(apply_fn: Callable) -> set[str]:
    """Arguments that can be passed by name; Linen's own `apply` hides its module's, `**` takes Linen's."""
    parameters = dict(inspect.signature(apply_fn).parameters)
    inner = apply_fn.func if isinstance(apply_fn, functools.partial) else apply_fn
    owner = getattr(inner, "__self__", None)
    if isinstance(owner, nn.Module):
        parameters |= inspect.signature(type(owner).__call__).parameters
    elif any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {*parameters, "mutable", "rngs"}
    return set(parameters)
