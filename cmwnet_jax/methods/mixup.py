"""Mixup (Zhang et al. 2018)."""

from ml_collections import ConfigDict

from cmwnet_jax.core import mixing, objectives
from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.types import Objective, ObjectiveFn, StepFn
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import MANY, Field, between
from cmwnet_jax.methods.plain import after_warmup, weighted_step

FIELDS = {
    "mixup_alpha": Field(
        1.0,
        "mixup and cmwnet_sl: alpha of Beta(alpha, alpha) for training batches; 0: cmwnet_sl without mixup.",
        between(0, MANY),
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds plain training on mixed batches."""
    step = _reporting_own_losses(weighted_step(parts, _with_own_losses(parts)))
    return after_warmup(parts, steps.weighted(step))


def _with_own_losses(parts: Parts) -> ObjectiveFn:
    """The objective on mixed batches; `aux` is the mixed images' losses with the examples' own labels, [n]."""
    forward = objectives.train_mode(parts.model.apply)

    def own_and_mixed(params, model_state, batch, rng):
        logits, model_state = forward(params, model_state, batch["image"], rng)
        losses = cross_entropy(logits, batch["label"])
        meta_class = objectives.meta_class_of(parts.meta_classes, batch["label"])
        return Objective(losses, losses, meta_class, aux=cross_entropy(logits, batch["own_label"])), model_state

    mixed = mixing.mixed(own_and_mixed, num_classes=parts.num_classes, alpha=parts.config.mixup_alpha)
    return lambda params, model_state, batch, rng: mixed(
        params, model_state, {**batch, "own_label": batch["label"]}, rng
    )


def _reporting_own_losses(step: StepFn) -> StepFn:
    """Wraps a step: `losses` are those of the own labels; the scalar `loss` stays that of the mixed ones."""

    def run(state, batch):
        state, metrics = step(state, batch)
        metrics = dict(metrics)
        metrics["losses"] = metrics.pop("aux")
        return state, metrics

    return run


def check(config: ConfigDict) -> None:
    """Raises a UsageError if alpha is 0, which means no mixup."""
    if not config.mixup_alpha:
        raise UsageError(
            "mixup_alpha is 0, expected a positive number with the method mixup: raise it, or take another "
            "method, as for tokens, which cannot be mixed"
        )


SPEC = Spec("mixup", build, check, fields=FIELDS)
