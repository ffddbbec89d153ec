"""Table 1: CIFAR-10-LT and CIFAR-100-LT, ResNet-32 (Sec. 4.1, B.1).

    python -m cmwnet_jax.train --config=experiments/table1_long_tail.py:cifar10,100,cmwnet,seed=N --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/table1_long_tail.py --workdir=DIR --only='cifar10,100,*'
    python -m cmwnet_jax.report DIR

DATASET,FACTOR,METHOD: cifar10 or cifar100; 200, 100, 50, 20, 10 or 1; a method, or cmwnet_ldam (CMW-Net with
the LDAM loss; the meta loss stays cross-entropy, Q27).
recipe=published (the default, since the paper's numbers come from that code): Nesterov momentum.
recipe=paper: plain momentum.
Both recipes: methods that weigh examples start with 160 of 200 epochs of plain cross-entropy (Q9; not stated in
the paper). The meta set consists of training examples, with as many per class as the smallest class has (Q28).
Unlike the authors' code, the weight net's Adam does not use AMSGrad.
Paper: paper_numbers.json, "table 1". Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.train.config import parse_arg
from experiments.common import cifar_config, step_epochs

_FACTORS = (200, 100, 50, 20, 10, 1)
_METHODS = ("erm", "focal", "class_balanced", "ldam", "l2rw", "mwnet", "mcw", "cmwnet", "cmwnet_ldam")
_FROM_THE_START = ("focal", "class_balanced", "ldam")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "cifar10", "factor": 100, "method": "cmwnet", "recipe": "published", "seed": 0}
    args = parse_arg(arg, ("dataset", "factor", "method"), **defaults)
    method = args.method.removesuffix("_ldam")
    config = cifar_config(args.dataset, method, args.seed, args.recipe)
    config.loss.name = "ldam" if args.method.endswith("_ldam") else "cross_entropy"
    config.data.bias = f"long_tail_{args.factor}"
    config.model.name = "resnet32"
    config.num_epochs = 200
    config.warmup_epochs = 0 if method in _FROM_THE_START else 160
    config.batch_size = 100
    config.optimizer.nesterov = args.recipe == "published"
    config.optimizer.decay_at_percent = step_epochs(config, 160, 180)
    config.optimizer.decay_factor = 0.01
    config.weight_net.learning_rate = 1e-4
    config.weight_net.weight_decay = 1e-5
    config.meta_set.kind = "balanced"
    config.meta_set.mixup = False  # the paper mixes generated meta data alone
    config.meta_set.per_class_examples = 5000  # an upper limit: the smallest class has fewer
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return [
        f"{dataset},{factor},{method}"
        for dataset in ("cifar10", "cifar100")
        for factor in _FACTORS
        for method in _METHODS
    ]
