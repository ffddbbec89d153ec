"""Tables 8, 9 and 12: large data sets with a frozen weight net from a small one (Sec. 6, Algorithm 2, D).

    python -m cmwnet_jax.transfer import published_weight_net.npz --output=published
    python -m cmwnet_jax.train --config=experiments/transfer.py:webvision,cmwnet,init=published --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/transfer.py --workdir=DIR --args=init=published
    python -m cmwnet_jax.report DIR

DATASET,METHOD: imagenet_lt (ResNet-10, the first of OLTR's two stages), webvision (Inception-ResNet-v2) or
animal10n (VGG-19-BN); erm, cmwnet or cmwnet_sl. init: a weight net with three meta-classes, from a run
(e.g. table4_hybrid.py's cifar10,pmd1_35+asymmetric_plc_30,cmwnet_sl) or imported.
imagenet=ILSVRC2012_img_val.tar tests webvision on ImageNet's validation images, too (Table 12). Of cmwnet_sl's
9.6 GB of pseudo-labels for webvision, --config.soft_labels.top_k=16 stores 154 MB (docs/large_sets.md).
recipe=paper (the default): webvision for 50 epochs from learning rate .1, weight decay 1e-4, with crops of 299
of 320 pixels.
recipe=published: webvision for 90 epochs from .2, weight decay 5e-5, with 10 epochs of plain cross-entropy
first; animal10n without momentum. The code for webvision trains cmwnet_sl, with mixup's alpha .2. imagenet_lt
is the same in both recipes. Unlike the authors' code, crops are taken at a single scale.
Paper: paper_numbers.json, "table 8" (both stages of OLTR, so not directly comparable), and "table 12" and the
three after it.
Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config, parse_arg
from experiments.common import RECIPES, as_for_animal10n, step_epochs

_METHODS = ("erm", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "webvision", "method": "cmwnet"}
    args = parse_arg(arg, tuple(defaults), **defaults, init="", imagenet="", recipe="paper", seed=0)
    if args.dataset not in _SETTINGS:
        raise unknown_name("DATASET", args.dataset, _SETTINGS)
    if args.method not in _METHODS:
        raise unknown_name("METHOD", args.method, _METHODS)
    if args.recipe not in RECIPES:
        raise unknown_name("recipe", args.recipe, RECIPES)
    config = default_config()
    config.method = args.method
    config.seed = args.seed
    config.data.name = args.dataset
    config.augment.flip = True
    config.watch.pictures_every_epochs = 0
    if args.method != "erm":
        config.weight_net.init = args.init
        config.weight_net.frozen = True
    if args.imagenet:
        config.data.also_test, config.data.also_test_raw_dir = "imagenet_val", args.imagenet
    config.soft_labels.start_from = "given"
    _SETTINGS[args.dataset](config, args.recipe == "published")
    return config


def _imagenet_lt(config: ConfigDict, published: bool) -> None:
    del published
    config.model.name = "resnet10"
    config.data.resize_pixels, config.data.crop_pixels = 256, 224
    config.num_epochs = 30
    config.warmup_epochs = 0
    config.batch_size = 128
    config.optimizer.decay_at_percent = step_epochs(config, 10)


def _webvision(config: ConfigDict, published: bool) -> None:
    config.model.name = "inception_resnet_v2"
    config.data.resize_pixels, config.data.crop_pixels = 320, 299
    config.num_epochs = 90 if published else 50
    config.warmup_epochs = 10 if published else 0
    config.batch_size = 256
    config.mixup_alpha = 0.2
    config.optimizer.learning_rate = 0.2 if published else 0.1
    config.optimizer.decay_at_percent = step_epochs(config, 30, 60 if published else 40)
    config.optimizer.weight_decay = 5e-5 if published else 1e-4


def _animal10n(config: ConfigDict, published: bool) -> None:
    as_for_animal10n(config, RECIPES[published])


_SETTINGS = {"imagenet_lt": _imagenet_lt, "webvision": _webvision, "animal10n": _animal10n}


def get_cells() -> list[str]:
    """The config arguments of the tables' cells; cells with a weight net need init=PATH."""
    return [f"{dataset},{method}" for dataset in _SETTINGS for method in _METHODS]
