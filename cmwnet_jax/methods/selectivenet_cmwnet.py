"""SelectiveNet with CMW-Net: the weight net weighs the auxiliary head's losses (E.3.2)."""

from cmwnet_jax.core.selective import selective_meta_loss
from cmwnet_jax.methods import selectivenet, weight_nets
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.weight_nets import check, with_weight_net
from cmwnet_jax.models.selective_heads import selective_heads


def build(parts: Parts) -> Method:
    """Builds SelectiveNet as the warm-up, then training with weights; the meta loss is L(f, g)."""
    return with_weight_net(
        parts,
        selectivenet.unweighted(parts),
        selectivenet.objective_of(parts),
        parts.config.weight_net.normalize,
        meta_loss=selective_meta_loss(parts.model.apply, **selectivenet.loss_settings(parts)),
        **selectivenet.evaluation(parts),
    )


SPEC = Spec(
    "selectivenet_cmwnet",
    build,
    check,
    head=lambda config: selective_heads,
    num_meta_classes=lambda config: config.weight_net.num_meta_classes,
    fields={**weight_nets.FIELDS, **selectivenet.FIELDS},
    options=(*weight_nets.OPTIONS, *selectivenet.FIELDS),
)
