"""Shared by L2RW and MCW: one free weight per example of the batch, reset at every step."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cmwnet_jax.core import free_weights
from cmwnet_jax.core.meta_step import make_meta_step
from cmwnet_jax.core.types import ObjectiveFn, WeightFn
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import meta_data, steps
from cmwnet_jax.methods.base import Method, Parts, Phase, one_classifier
from cmwnet_jax.methods.plain import warmup


def freely_weighted(
    parts: Parts,
    objective: ObjectiveFn,
    weight_fn: WeightFn,
    weight_optimizer: optax.GradientTransformation,
    normalize: str,
    **fields,
) -> Method:
    """Builds the warm-up, then meta steps that reset the weight parameters to 0.

    Args:
        parts: the pieces of the run.
        objective, weight_fn, weight_optimizer, normalize: as in `make_meta_step`.
        **fields: further fields of `Method`.
    """
    meta_step = make_meta_step(
        objective=objective,
        meta_loss=meta_data.meta_loss(parts),
        weight_fn=weight_fn,
        optimizer=parts.optimizer,
        weight_optimizer=weight_optimizer,
        virtual_lr=parts.learning_rate,
        virtual_filter=parts.virtual_filter,
        normalize=normalize,
        axis_name=parts.axis_name,
    )

    def initial(*arguments):
        return {**one_classifier(*arguments), "weight_params": jnp.zeros(parts.config.batch_size)}

    main = Phase(
        steps.meta(free_weights.afresh(meta_step)),
        streams=("train", meta_data.META),
        first_epoch=parts.config.warmup_epochs,
        weighs=True,
        learns=lambda numbers: numbers >= 0,
    )
    return parts.method(
        (warmup(parts), main),
        weight_optimizer=weight_optimizer,
        initial=initial,
        **meta_data.meta_fields(parts),
        **fields,
    )


def check(config: ConfigDict) -> None:
    """Raises a UsageError for settings that these methods do not support."""
    meta_data.check(config)
    meta_data.check_virtual_step(config)
    if config.meta_every_steps != 1:
        raise UsageError(
            f"meta_every_steps is {config.meta_every_steps}, expected 1: {config.method} weighs each batch anew"
        )
