r"""Table 6: mini-WebVision, ResNet-50; tested on WebVision's and ImageNet's validation images (Sec. 5.1, C.1).

    python -m cmwnet_jax.train --workdir=DIR \
        --config=experiments/table6_webvision.py:cmwnet,raw_dir=WEBVISION,imagenet=ILSVRC2012_img_val.tar
    python -m cmwnet_jax.sweep --config=experiments/table6_webvision.py --workdir=DIR \
        --args=raw_dir=WEBVISION,imagenet=ILSVRC2012_img_val.tar,init=C2D.safetensors
    python -m cmwnet_jax.report DIR

METHOD: erm, mwnet, cmwnet, cmwnet_sl, or any other method of cmwnet_jax; METHOD_c2d starts from init, a
self-supervised ResNet-50 (docs/data.md says how to make the file), and the others, random, ignore it. raw_dir
and imagenet: the files, needed once. WebVision's folder must have info/synsets.txt, by which ImageNet's classes
are found; each set has 2,500 validation images of the 50 classes. --config.data.also_test= tests on WebVision's
alone. trial=2000: four epochs of so many images at random, to see that everything works (docs/large_sets.md).
recipe=paper (the default): 90 epochs in batches of 64, a meta step at each step.
recipe=published: 100 epochs in batches of 32, a meta step every 10 steps, the weight net's weight decay 1e-4,
weighted losses divided by the batch size (Q3), pseudo-labels that start as the given labels, and a teacher in
train mode (Q16).
Both recipes: crops of 227 of 256 pixels (Q71), 5 epochs of plain cross-entropy first (Q9) and mixup's alpha, as
published; the paper gives none of them. The paper's DivideMix has no cell: the images that it plans for an
epoch lie on every device, and here they would be 10 GB.
Paper: paper_numbers.json, "table 6" and the three after it. Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.config import parse_arg
from experiments.common import as_trial, step_epochs, web_config

_METHODS = ("erm", "mwnet", "cmwnet", "cmwnet_sl", "cmwnet_sl_c2d")
_C2D = "_c2d"


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"method": "cmwnet", "recipe": "paper", "seed": 0}
    args = parse_arg(arg, ("method",), **defaults, raw_dir="", imagenet="", init="", trial=0)
    published = args.recipe == "published"
    pretrained = args.method.endswith(_C2D)
    if pretrained and not args.init:
        raise UsageError(
            f"init is empty, but {args.method} starts from a self-supervised ResNet-50: give its file, "
            f"init=FILE.safetensors"
        )
    args.method = args.method.removesuffix(_C2D)
    config = web_config("webvision_mini", args)
    config.data.also_test = "imagenet_val"
    config.data.also_test_raw_dir = args.imagenet
    config.data.resize_pixels, config.data.crop_pixels = 256, 227
    config.model.name = "resnet50"
    config.model.pretrained = args.init if pretrained else ""  # a sweep gives init to all cells
    config.num_epochs = 100 if published else 90
    config.warmup_epochs = 5
    config.batch_size = 32 if published else 64
    config.meta_every_steps = 10 if published else 1
    config.mixup_alpha = 0.6
    config.optimizer.learning_rate = 0.01
    config.optimizer.decay_at_percent = step_epochs(config, 50)
    config.weight_net.learning_rate = 1e-4
    config.weight_net.weight_decay = 1e-4 if published else 1e-5
    as_trial(config, args.trial)
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells; cmwnet_sl_c2d needs init=FILE."""
    return list(_METHODS)
