"""L2RW: one free weight per example of each batch (Ren et al. 2018)."""

from cmwnet_jax.core import free_weights
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.free_weights import check, freely_weighted
from cmwnet_jax.methods.meta_data import FIELDS


def build(parts: Parts) -> Method:
    """Builds the method: weights are the clipped negative meta-gradient, divided by their sum; all may be 0."""
    return freely_weighted(
        parts,
        parts.objective(),
        free_weights.free_weight_fn(parts.axis_name),
        free_weights.reweighting_optimizer(),
        "sum",
        may_weigh_nothing=True,
    )


SPEC = Spec("l2rw", build, check, fields=FIELDS)
