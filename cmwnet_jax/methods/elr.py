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
        "elr only: coefficient of the regulariser (lambda).",
        between(0, LARGE),
    ),
    "elr.momentum": Field(
        0.7,
        "elr only: momentum of an example's target per visit, in [0, 1).",
        within("[0, 1)"),
    ),
}
"""Config fields of this method."""


def empty_table(parts: Parts, dtype: jnp.dtype) -> Table:
    """Makes a table of zeros [N, C] on the host, since it may be too large for a single device.

    Args:
        parts: the pieces of the run.
        dtype: dtype of the values.
    """
    return Table.full(np.zeros((parts.num_examples, parts.num_classes), dtype))


def build(parts: Parts) -> Method:
    """Builds plain training with the regulariser, whose targets are stored per example."""
    fields = parts.config.elr
    objective = objectives.elr_objective(parts.model.apply, strength=fields.strength, momentum=fields.momentum)
    step = remembering(weighted_step(parts, objective), parts.axis_name)
    return after_warmup(parts, steps.weighted(step), memory=empty_table(parts, jnp.float32))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if the regulariser's coefficient is 0."""
    more_than_nothing(config, "elr.strength")


SPEC = Spec("elr", build, check, fields=FIELDS)
