r"""Tables 8, 9 and 12: large data sets with a frozen weight net from a small one (Sec. 6, Algorithm 2, D).

    python -m cmwnet_jax.transfer import published_weight_net.npz --output=published
    python -m cmwnet_jax.train --workdir=DIR \
        --config=experiments/transfer.py:webvision,cmwnet,init=published,raw_dir=WEBVISION
    python -m cmwnet_jax.sweep --config=experiments/transfer.py --workdir=DIR \
        --only='webvision,*' --args=init=published,raw_dir=WEBVISION
    python -m cmwnet_jax.report DIR

DATASET,METHOD: imagenet_lt (ResNet-10), webvision (Inception-ResNet-v2) or animal10n (VGG-19-BN); erm, cmwnet
or cmwnet_sl. Also imagenet_lt,oltr and imagenet_lt,oltr_cmwnet: the second of OLTR's two stages, which starts
from the run of erm or cmwnet, stage1=RUN; a sweep trains that first.
init: a weight net with three meta-classes, from a run (e.g. table4_hybrid.py's
cifar10,pmd1_35+asymmetric_plc_30,cmwnet_sl) or imported.
raw_dir: the files of the one data set that is trained, needed once. trial=2000: four epochs of so many images
at random, to see that everything works. docs/large_sets.md has more on both.
imagenet=ILSVRC2012_img_val.tar tests webvision, alone, on ImageNet's validation images, too (Table 12). Of
cmwnet_sl's 9.6 GB of pseudo-labels for webvision, --config.soft_labels.top_k=16 stores 154 MB
(docs/large_sets.md).
recipe=paper (the default): webvision for 50 epochs from learning rate .1, weight decay 1e-4.
recipe=published: webvision for 90 epochs from .2, weight decay 5e-5, with 10 epochs of plain cross-entropy
first; animal10n without momentum. The code for webvision trains cmwnet_sl, with mixup's alpha .2. imagenet_lt
is the same in both recipes, but for cmwnet_sl's teacher (Q16). Training crops have a random area, as in the
authors' code, and for imagenet_lt random colours, as in OLTR's. animal10n has the 20 epochs of plain
cross-entropy first that Table 5's runs have.
OLTR's second stage is that of its authors' code: 60 epochs of batches of 256, the body at a tenth of the rate.
Paper: paper_numbers.json, "table 8" and "table 12", each with the three after it.
Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.train.config import default_config, parse_arg
from experiments.common import RECIPES, as_for_animal10n, as_trial, step_epochs

_METHODS = ("erm", "cmwnet", "cmwnet_sl")
_SECOND_STAGES = {"imagenet_lt,oltr": "imagenet_lt,erm", "imagenet_lt,oltr_cmwnet": "imagenet_lt,cmwnet"}


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "webvision", "method": "cmwnet"}
    files = dict.fromkeys(("init", "stage1", "raw_dir", "imagenet"), "")
    args = parse_arg(arg, tuple(defaults), **defaults, **files, recipe="paper", seed=0, trial=0)
    if args.dataset not in _SETTINGS:
        raise unknown_name("DATASET", args.dataset, _SETTINGS)
    first = _SECOND_STAGES.get(f"{args.dataset},{args.method}", "")
    if args.method not in _METHODS and not first:
        raise unknown_name("METHOD", args.method, _METHODS)
    if args.recipe not in RECIPES:
        raise unknown_name("recipe", args.recipe, RECIPES)
    config = default_config()
    config.method = "oltr" if first else args.method
    config.seed = args.seed
    config.data.name, config.data.raw_dir = args.dataset, args.raw_dir
    config.augment.flip = True
    config.watch.pictures_every_epochs = 0
    if args.method != "erm" and not first:
        config.weight_net.init = args.init
        config.weight_net.frozen = True
    if args.imagenet and args.dataset == "webvision":
        config.data.also_test, config.data.also_test_raw_dir = "imagenet_val", args.imagenet
    config.soft_labels.start_from = "given"
    published = args.recipe == "published"
    if published and args.method == "cmwnet_sl":
        config.soft_labels.teacher_statistics = "batch"
    _SETTINGS[args.dataset](config, published)
    if args.stage1 and not first:
        raise UsageError(
            f"stage1 is {args.stage1!r}, but {args.dataset},{args.method} has one stage: leave it out"
        )
    if first:
        _second_stage(config, args.stage1, first)
    as_trial(config, args.trial)
    return config


def _second_stage(config: ConfigDict, stage1: str, first: str) -> None:
    if not stage1:
        raise UsageError(f"imagenet_lt's OLTR is stage two: append stage1=RUN of {first}")
    config.model.init = stage1
    config.num_epochs = 60
    config.batch_size = 256
    config.optimizer.decay_at_percent = step_epochs(config, 20, 40)
    config.optimizer.slow = ("conv1/*", "bn1/*", "layer*", "memory/centroids")


def _imagenet_lt(config: ConfigDict, published: bool) -> None:
    del published
    config.model.name = "resnet10"
    config.data.resize_pixels, config.data.crop_pixels = 256, 224
    config.data.least_area_percent = 8.0
    config.augment.color_jitter = 0.4
    config.num_epochs = 30
    config.warmup_epochs = 0
    config.batch_size = 128
    config.optimizer.decay_at_percent = step_epochs(config, 10)


def _webvision(config: ConfigDict, published: bool) -> None:
    config.model.name = "inception_resnet_v2"
    config.data.resize_pixels, config.data.crop_pixels = 320, 299
    config.data.least_area_percent = 8.0
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
    return [*(f"{dataset},{method}" for dataset in _SETTINGS for method in _METHODS), *_SECOND_STAGES]


def get_first_stage(cell: str) -> str:
    """The cell whose classifier this cell starts from."""
    return _SECOND_STAGES.get(cell, "")
