r"""Table 3: feature-dependent label noise, ResNet-34 (Sec. 4.3, B.3).

    python -m cmwnet_jax.data posterior --workdir=CLEAN_RUN --output=cifar10.npy
    python -m cmwnet_jax.train --config=experiments/table3_pmd.py:cifar10,pmd1_35,cmwnet,posterior=cifar10.npy \
        --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/table3_pmd.py --workdir=DIR --only='cifar10,*' --seeds=3 \
        --args=posterior=cifar10.npy
    python -m cmwnet_jax.report DIR

DATASET,BIAS,METHOD: cifar10 or cifar100; pmd1_R, pmd2_R or pmd3_R with R 35 or 70, or one of Table 4's hybrids;
a method. CLEAN_RUN is any finished run of erm on the data set without bias.
recipe=paper (the default, since it follows the text): a meta step at each step, mixup of meta batches, weight
decay 5e-4, the text's noise.
recipe=published: meta steps every 10 steps, no mixup of meta batches, weight decay 1e-3, the published noise
generator (pmd1_plc_R), a first convolution without padding (Q36), a teacher in train mode (Q16). Unlike the
authors' code, which sets 5,000 examples apart without using them, we train on all 50,000.
Both recipes, not given in the paper: first 45 epochs of plain cross-entropy at a constant learning rate of .1
(Q9), then warm restarts for 75 epochs; mixup's alpha is 4. lrt and plc have the same schedule here, not that of
their own papers.
Paper: paper_numbers.json, "table 3", 3 trials. Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.train.config import parse_arg
from experiments.common import cifar_config

_METHODS = ("erm", "lrt", "gce", "mwnet", "plc", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "", default_bias: str = "pmd1_35") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "cifar10", "bias": default_bias, "method": "cmwnet"}
    args = parse_arg(arg, tuple(defaults), **defaults, recipe="paper", posterior="", seed=0)
    published = args.recipe == "published"
    config = cifar_config(args.dataset, args.method, args.seed, args.recipe, pad_mode="constant")
    pmd, plus, other = args.bias.partition("+")
    config.data.bias = (pmd.replace("_", "_plc_", 1) if published else pmd) + plus + other
    config.data.posterior = args.posterior
    config.model.name = "resnet34_cifar_unpadded" if published else "resnet34_cifar"
    config.num_epochs = 120
    config.warmup_epochs = 45
    config.batch_size = 128
    config.mixup_alpha = 4.0
    config.meta_every_steps = 10 if published else 1
    config.meta_set.mixup = not published
    config.meta_set.rank_by = "now"  # as the paper and its code do
    config.optimizer.schedule = "warm_restarts"
    config.optimizer.weight_decay = 1e-3 if published else 5e-4
    config.soft_labels.teacher_momentum = 0.999
    config.soft_labels.teacher_statistics = "batch" if published else "running"
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return [
        f"{dataset},pmd{kind}_{rate},{method}"
        for dataset in ("cifar10", "cifar100")
        for kind in (1, 2, 3)
        for rate in (35, 70)
        for method in _METHODS
    ]
