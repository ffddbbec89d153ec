"""MW-Net: one weighting function for all classes (Shu et al. 2019); CMW-Net with K = 1."""

from cmwnet_jax.methods import loss_names, weight_nets
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.loss_names import chosen_loss, head
from cmwnet_jax.methods.plain import warmup
from cmwnet_jax.methods.weight_nets import FIELDS, check, with_weight_net


def build(parts: Parts) -> Method:
    """Builds the warm-up, then Algorithm 1."""
    objective = parts.objective(chosen_loss(parts))
    return with_weight_net(parts, warmup(parts), objective, parts.config.weight_net.normalize)


SPEC = Spec(
    "mwnet",
    build,
    check,
    head=head,
    fields={**FIELDS, **loss_names.FIELDS},
    options=(*weight_nets.OPTIONS, "loss.name", "low_memory"),
)
