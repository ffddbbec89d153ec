"""Objectives and meta losses of the usual kind, from a Linen-style `apply`."""

import inspect
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.losses import cross_entropy
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.types import MetaLossFn, Objective, ObjectiveFn, PyTree

LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def classification_objective(
    apply_fn: Callable, meta_classes: MetaClasses, loss: LossFn = cross_entropy
) -> ObjectiveFn:
    """CMW-Net's objective (Eq. 6): terms and losses are both the per-example losses, base is 0.

    Args:
        apply_fn: `model.apply` of a Linen module, or `(variables, inputs, *, mutable, rngs)` with
            the same meaning; `train=True` is passed where the model takes it. Gives [n, C] logits.
        meta_classes: the meta-class of each of the C classes.
        loss: (logits [n, C], labels [n]) -> [n].

    Returns:
        An `objective` for `make_meta_step`, of batches with the entries `image` (the model's
        input, [n, ...]) and `label` ([n] int in [0, C)).
    """
    of_class = jnp.asarray(meta_classes.of_class)
    forward = _train_mode(apply_fn)

    def objective(params, model_state, batch, rng):
        logits, new_model_state = forward(params, model_state, batch["image"], rng)
        losses = loss(logits, batch["label"])
        # A label beyond the classes gets a meta-class beyond K, and so the weight NaN: an
        # unchecked gather would silently read the last class's.
        meta_class = of_class.at[batch["label"]].get(mode="fill", fill_value=jnp.iinfo(jnp.int32).max)
        return Objective(terms=losses, losses=losses, meta_class=meta_class), new_model_state

    return objective


def classification_meta_loss(apply_fn: Callable, loss: LossFn = cross_entropy) -> MetaLossFn:
    """The mean loss on a meta batch (Eq. 5), in train mode, running statistics thrown away (Q18).

    Args:
        apply_fn: as in `classification_objective`.
        loss: (logits [m, C], labels [m] or [m, C]) -> [m].
    """
    forward = _train_mode(apply_fn)

    def meta_loss(params, model_state, meta_batch, rng):
        logits, _ = forward(params, model_state, meta_batch["image"], rng)
        return jnp.mean(loss(logits, meta_batch["label"]))

    return meta_loss


def _train_mode(apply_fn: Callable) -> Callable[..., tuple[jax.Array, PyTree]]:
    """(params, model_state, inputs, rng) -> (logits, new model_state) in train mode."""
    train = {"train": True} if _takes_train(apply_fn) else {}

    def forward(params, model_state, inputs, rng):
        variables = {"params": params, **model_state}
        out = apply_fn(variables, inputs, mutable=list(model_state), rngs={"dropout": rng}, **train)
        logits, new_model_state = out
        return logits, dict(new_model_state)

    return forward


def _takes_train(apply_fn: Callable) -> bool:
    """Whether the model has a `train` argument; Linen's own `apply` hides its module's."""
    owner = getattr(apply_fn, "__self__", None)
    called = type(owner).__call__ if isinstance(owner, nn.Module) else apply_fn
    return "train" in inspect.signature(called).parameters
