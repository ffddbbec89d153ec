"""Human labels: CIFAR-10N's annotators, on fixed features of CIFAR-10, so that a CPU trains a run in minutes.

    python -m experiments.make_features --name=image_folder --raw_dir=CIFAR10.tar.gz --output=FEATURES.npz
    python -m cmwnet_jax.train --config=experiments/human_noise.py:LABELS,METHOD,seed=N,features=FEATURES.npz,\
human_labels=CIFAR10N.npz --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/human_noise.py --workdir=DIR --seeds=3 \
        --args=features=FEATURES.npz,human_labels=CIFAR10N.npz

LABELS: worse (40.2% wrong), random1 (17.2%) or aggre (9.0%); truth is CIFAR-10's own labels.
METHOD: erm, gce, elr, mwnet, cmwnet, cmwnet_sl, or cmwnet_shuffled (random meta-classes, a control). Also
any other, e.g. mixup, or transferred,init=NET: a weight net that was learned elsewhere, frozen (Algorithm 2).
Options by name: epochs=60, meta_mixup=on or off, decay=1e-4 (the weight net's weight decay).
Without features, the prepared set is used. The classifier is an MLP 512-512 with BatchNorm, learning rate 0.05
cut at 60% and 85%; the rest as in compare.py.
Paper: no such cell.
Ours: docs/results.md, in part.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config, parse_arg
from experiments.common import is_on

_LABELS = {"worse": "worse_label", "random1": "random_label1", "aggre": "aggre_label"}
_METHODS = ("erm", "gce", "elr", "mwnet", "cmwnet", "cmwnet_sl", "cmwnet_shuffled")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"labels": "worse", "method": "cmwnet", "seed": 0, "epochs": 60}
    meta = {"meta_mixup": "on", "decay": 1e-4}
    args = parse_arg(arg, ("labels", "method"), **defaults, **meta, features="", human_labels="", init="")
    if args.labels not in _LABELS:
        raise unknown_name("LABELS", args.labels, _LABELS)
    config = default_config()
    config.method = args.method
    config.meta_set.mixup, config.weight_net.weight_decay = is_on("meta_mixup", args.meta_mixup), args.decay
    if args.method == "cmwnet_shuffled":
        config.method, config.weight_net.class_feature = "cmwnet", "shuffled"
    if args.method == "transferred":
        config.method, config.weight_net.init, config.weight_net.frozen = "cmwnet", args.init, True
    config.seed = args.seed
    config.data.name = "arrays"
    config.data.known_as = "cifar10"
    config.data.raw_dir = args.features
    config.data.bias = f"human_{_LABELS[args.labels]}"
    config.data.human_labels = args.human_labels
    config.model.hidden = (512, 512)
    config.num_epochs = args.epochs
    config.warmup_epochs = min(10, args.epochs // 3)
    config.optimizer.learning_rate = 0.05
    config.optimizer.decay_at_percent = (60.0, 85.0)
    config.watch.pictures_every_epochs = 0
    return config


def get_cells() -> list[str]:
    """The config arguments of all runs."""
    return [f"{labels},{method}" for labels in _LABELS for method in _METHODS]
