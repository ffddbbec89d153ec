"""Compares methods under any bias, on data sets that a CPU can train on.

    python -m cmwnet_jax.train --config=experiments/compare.py:DATASET,BIAS,METHOD,seed=N --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/compare.py --workdir=DIR --seeds=3 --only='fashion_mnist,*'
    python -m cmwnet_jax.report DIR

DATASET: fashion_mnist or mnist (MLP, 30 epochs), cifar10 (small CNN). raw_dir=PATH reads local files instead of
tfds's: a folder of *-ubyte.gz, or an image folder or archive for cifar10.
BIAS: none, long_tail_100, symmetric_60, human_worse_label, ... (see the README).
METHOD: a method, or cmwnet_shuffled (random meta-classes), cmwnet_delayed (weights of before the weight net's
update), cmwnet_ldam, ldam_drw.
Options by name: K=2 (number of meta-classes), meta=held_out (clean meta data, which are taken out of the
training set, instead of generated ones), meta_mixup=on or off (default: on for generated meta data, as in the
paper), rank=now or history (meta_set.rank_by), per_class=10 (meta examples per class), epochs=30,
human_labels=PATH (an .npz file, for human biases), posterior=PATH (an .npy of the probabilities of a run on
clean labels, for pmd biases; see docs/data.md), crops=N (images are shifted by up to N pixels, and flipped;
by default 4 for cifar10 and 0, neither, for the others, but 2 for dividemix, which needs views that differ),
decay=1e-4 (the weight net's weight decay).
Paper: no such cell; Tables 1 and 2 and Fig. 15 study the same questions with larger networks.
Ours: docs/results.md; the table is in the README.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config, parse_arg
from experiments.common import is_on

_VARIANTS = {
    "cmwnet_shuffled": ("cmwnet", {"weight_net.class_feature": "shuffled"}),
    "cmwnet_delayed": ("cmwnet", {"delayed_weights": True}),
    "cmwnet_ldam": ("cmwnet", {"loss.name": "ldam"}),
    "ldam_drw": ("ldam", {"loss.reweight_at_percent": 80.0}),
}
_OWN_FILES = {"fashion_mnist": "mnist_format", "mnist": "mnist_format", "cifar10": "image_folder"}
_BIASES = ("long_tail_100", "symmetric_60", "asymmetric_60")
_OTHERS = ("gce", "elr", "m_correction", "dividemix", "lrt", "plc")
_METHODS = ("erm", *_OTHERS, "mwnet", "cmwnet", "cmwnet_sl", "cmwnet_shuffled")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "fashion_mnist", "bias": "asymmetric_60", "method": "cmwnet", "seed": 0}
    meta = {"K": 3, "meta": "lowest_loss", "meta_mixup": "", "rank": "", "per_class": 10}
    files = dict.fromkeys(("raw_dir", "human_labels", "posterior"), "")
    more = {"epochs": 30, "crops": -1, "decay": 1e-4, **meta, **files}
    args = parse_arg(arg, ("dataset", "bias", "method"), **defaults, **more)
    if args.dataset not in _OWN_FILES:
        raise unknown_name("DATASET", args.dataset, _OWN_FILES)
    config = default_config()
    config.method, changes = _VARIANTS.get(args.method, (args.method, {}))
    config.update_from_flattened_dict(changes)
    config.seed = args.seed
    config.data.name = _OWN_FILES[args.dataset] if args.raw_dir else args.dataset
    config.data.known_as = args.dataset if args.raw_dir else ""
    config.data.raw_dir = args.raw_dir
    config.data.bias = args.bias
    config.data.human_labels = args.human_labels
    config.data.posterior = args.posterior
    config.num_epochs = args.epochs
    config.warmup_epochs = min(10, args.epochs // 3)
    config.weight_net.num_meta_classes, config.weight_net.weight_decay = args.K, args.decay
    _set_meta_data(config, args)
    config.watch.pictures_every_epochs = 0
    if args.dataset == "cifar10":
        config.model.name = "small_cnn"
    crops = {"cifar10": 4}.get(args.dataset, 2 if config.method == "dividemix" else 0)
    config.augment.pad_pixels = crops if args.crops < 0 else args.crops
    config.augment.flip = config.augment.pad_pixels > 0
    # Published for asymmetric noise alone.
    config.dividemix.confidence_penalty = config.method == "dividemix" and "asymmetric" in args.bias
    return config


def _set_meta_data(config: ConfigDict, args: ConfigDict) -> None:
    config.meta_set.kind = args.meta
    generated = args.meta == "lowest_loss"
    config.meta_set.mixup = is_on("meta_mixup", args.meta_mixup) if args.meta_mixup else generated
    config.meta_set.per_class_examples = args.per_class
    if args.rank:
        config.meta_set.rank_by = args.rank


def get_cells() -> list[str]:
    """The config arguments of the cells in the README's table, and of delayed weights (docs/costs.md)."""
    return [f"fashion_mnist,{bias},{method}" for bias in _BIASES for method in (*_METHODS, "cmwnet_delayed")]
