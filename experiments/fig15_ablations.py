"""Fig. 15: how many meta-classes, and a clean meta set against a generated one (B.5).

    python -m cmwnet_jax.train --config=experiments/fig15_ablations.py:cifar10,asymmetric_60,K=3 --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/fig15_ablations.py --workdir=DIR --seeds=3
    python -m cmwnet_jax.report DIR

DATASET,BIAS: as in table2_noise.py, whose settings these are. K=1 to 5: meta-classes. meta=held_out: 10 clean
examples a class, set apart; meta=lowest_loss: generated at each epoch (the default). class_feature=shuffled:
meta-classes dealt out at random, which the paper has not: what the class's size itself is worth.
Paper: a figure without numbers. Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.train.config import parse_arg
from experiments import table2_noise

_CHANGES = (*(f"K={k}" for k in range(1, 6)), "meta=held_out", "class_feature=shuffled")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "cifar10", "bias": "asymmetric_60"}
    changes = {"K": 3, "meta": "lowest_loss", "class_feature": "size"}
    args = parse_arg(arg, tuple(defaults), **defaults, **changes, seed=0)
    config = table2_noise.get_config(f"{args.dataset},{args.bias},cmwnet,seed={args.seed}")
    config.weight_net.num_meta_classes = args.K
    config.weight_net.class_feature = args.class_feature
    config.meta_set.kind = args.meta
    return config


def get_cells() -> list[str]:
    """The figure's cells, as config arguments."""
    return [
        f"{dataset},{bias},{change}"
        for dataset in ("cifar10", "cifar100")
        for bias in ("symmetric_40", "asymmetric_40", "asymmetric_60")
        for change in _CHANGES
    ]
