"""OLTR and a frozen weight net on a long tail as ImageNet-LT's: 10 classes of 1,280 to 5 training images.

    python -m cmwnet_jax.transfer import published_weight_net.npz --output=NET
    python -m cmwnet_jax.sweep --config=experiments/oltr_fashion.py --workdir=DIR --seeds=3 \\
        --args=init=NET[,raw_dir=FASHION_MNIST]
    python -m cmwnet_jax.report DIR

METHOD: stage one, erm or cmwnet (60 epochs; cmwnet with a frozen weight net, e.g. the authors' published one);
OLTR's stage two from either (30 epochs more), oltr or oltr_cmwnet; or controls that start from erm and have as
many epochs: oltr_unbalanced, without balanced batches, and erm_longer, plain training.
Options by name: init=PATH (the weight net), epochs=60, raw_dir=PATH (files in MNIST's format instead of
tfds's).
Paper: no such cell; Table 8 studies the same question on ImageNet-LT.
Ours: docs/results.md.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.train.config import default_config, parse_arg

_BIAS = "balanced_subset_12800+long_tail_256"
_FIRST_STAGES = {
    "erm": "",
    "cmwnet": "",
    "oltr": "erm",
    "oltr_cmwnet": "cmwnet",
    "oltr_unbalanced": "erm",
    "erm_longer": "erm",
}


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    args = parse_arg(arg, ("method",), method="erm", seed=0, stage1="", init="", epochs=60, raw_dir="")
    if args.method not in _FIRST_STAGES:
        raise unknown_name("METHOD", args.method, _FIRST_STAGES)
    config, first = default_config(), _FIRST_STAGES[args.method]
    config.method = args.method if not first else "erm" if args.method == "erm_longer" else "oltr"
    config.seed = args.seed
    config.data.name = "mnist_format" if args.raw_dir else "fashion_mnist"
    config.data.known_as = "fashion_mnist" if args.raw_dir else ""
    config.data.raw_dir = args.raw_dir
    config.data.bias = _BIAS
    config.batch_size = 50
    config.num_epochs = args.epochs
    config.warmup_epochs = 0
    config.watch.pictures_every_epochs = 0
    if args.method == "cmwnet":
        config.weight_net.init = args.init
        config.weight_net.frozen = True
    if first:
        _second_stage(config, args, first)
    return config


def _second_stage(config: ConfigDict, args: ConfigDict, first: str) -> None:
    """Half as many epochs from stage one's classifier; the body learns at a tenth of the rate, as in OLTR."""
    if not args.stage1:
        raise UsageError(f"{args.method} is stage two: append stage1=RUN of {first}")
    config.model.init = args.stage1
    config.num_epochs = max(1, args.epochs // 2)
    config.optimizer.slow = ("Dense_[01]/*", "BatchNorm_*")
    if config.method == "oltr":
        config.oltr.balanced = args.method != "oltr_unbalanced"
        config.optimizer.slow = (*config.optimizer.slow, "memory/centroids")


def get_cells() -> list[str]:
    """The config arguments of all cells; cmwnet needs init=PATH."""
    return list(_FIRST_STAGES)


def get_first_stage(cell: str) -> str:
    """The cell whose classifier this cell starts from."""
    return _FIRST_STAGES[cell]
