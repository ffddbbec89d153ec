"""Table 11: 40% of CIFAR-10's training images replaced by CIFAR-100's, WRN-28-2 (B.4).

    python -m cmwnet_jax.train --config=experiments/table11_open_set.py:cifar10,open_set_40,cmwnet --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/table11_open_set.py --workdir=DIR --seeds=3
    python -m cmwnet_jax.report DIR

DATASET,BIAS,METHOD: cifar10; open_set_R; a method. There is no published code for this experiment. The settings
are those of the text; other settings of cmwnet_sl and dividemix (lambda_u 25) are the defaults. The paper's
Forward (84.63) has no cell here, because images of no class have no transition matrix.
Paper: paper_numbers.json, "table 11", 3 trials. Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.train.config import parse_arg
from experiments.common import cifar_config, step_epochs

_METHODS = ("erm", "gce", "m_correction", "dividemix", "l2rw", "mwnet", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "cifar10", "bias": "open_set_40", "method": "cmwnet"}
    args = parse_arg(arg, tuple(defaults), **defaults, seed=0)
    config = cifar_config(args.dataset, args.method, args.seed, "paper")
    config.data.bias = args.bias
    config.model.name = "wide_resnet28_2"
    config.num_epochs = 120
    config.warmup_epochs = 20
    config.batch_size = 128
    config.optimizer.decay_at_percent = step_epochs(config, 80, 100)
    config.meta_set.mixup = True
    config.meta_set.rank_by = "now"  # as the paper and its code do
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return [f"cifar10,open_set_40,{method}" for method in _METHODS]
