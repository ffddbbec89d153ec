"""Early-learning regularisation (Liu et al. 2020)."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import objectives
from cmwnet_jax.core.table import Table, remembering
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import LARGE, Field, between, more_than_nothing, within
from cmwnet_jax.methods.plain import after_warmup, weighted_step

FIELDS = {
    "elr.strength": Field(
        3.0,
        "What ELR's regulariser is multiplied by.",
        between(0, LARGE),
    ),
    "elr.momentum": Field(
        0.7,
        "How much of an example's target stays at each visit.",
        within("[0, 1)"),
    ),
}
"""Config fields that it reads."""


def empty_table(parts: Parts, dtype: jnp.dtype) -> Table:
    """A row of zeros per training example and class, on the host: it may fit no single device.

    Args:
        parts: the run's.
        dtype: of its values.
    """
    return Table.full(np.zeros((parts.num_examples, parts.num_classes), dtype))


def build(parts: Parts) -> Method:
    """Plain training with targets that are remembered per example."""
    fields = parts.config.elr
    objective = objectives.elr_objective(parts.model.apply, strength=fields.strength, momentum=fields.momentum)
    step = remembering(weighted_step(parts, objective), parts.axis_name)
    return after_warmup(parts, steps.weighted(step), memory=empty_table(parts, jnp.float32))


def check(config: ConfigDict) -> None:
    """Raises a UsageError where there is no regulariser."""
    more_than_nothing(config, "elr.strength")


SPEC = Spec("elr", build, check, fields=FIELDS)
