"""Fig. 15: the number of meta-classes, and a clean against a generated meta set (B.5).

    python -m cmwnet_jax.train --config=experiments/fig15_ablations.py:cifar10,asymmetric_60,K=3 --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/fig15_ablations.py --workdir=DIR --seeds=3
    python -m cmwnet_jax.report DIR

DATASET,BIAS: as in table2_noise.py; all other settings are also those of that file. K=1 to 5: the number of
meta-classes. meta=held_out: 10 clean examples per class, set apart from training; meta=lowest_loss (default):
generated at each epoch. class_feature=shuffled: random meta-classes, to measure the effect of class size (not
in the paper).
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
    config.meta_set.mixup = args.meta == "lowest_loss"  # not clean meta data
    return config


def get_cells() -> list[str]:
    """The config arguments of the figure's cells."""
    return [
        f"{dataset},{bias},{change}"
        for dataset in ("cifar10", "cifar100")
        for bias in ("symmetric_40", "asymmetric_40", "asymmetric_60")
        for change in _CHANGES
    ]
