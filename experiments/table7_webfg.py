r"""Table 7: WebFG-496's three parts, bilinear CNN from a VGG-16 of ImageNet, in two stages (Sec. 5.2, C.2).

    python -m cmwnet_jax.sweep --config=experiments/table7_webfg.py --workdir=DIR \
        --only='bird,*' --args=raw_dir=web-bird.tar.gz,pretrained=vgg16.safetensors
    python -m cmwnet_jax.report DIR
    python -m cmwnet_jax.train --config=...:bird,cmwnet_stage1,pretrained=vgg16.safetensors --workdir=STAGE1
    python -m cmwnet_jax.train --config=...:bird,cmwnet,stage1=STAGE1 --workdir=STAGE2

PART,METHOD: aircraft, bird or car; erm, mwnet, cmwnet, cmwnet_sl, or any other method of cmwnet_jax. A cell has
two stages: METHOD_stage1 trains the last layer alone (the virtual step, too), then METHOD trains all layers
from there. The sweep trains both, and resumes either after a stop; `train` runs a single stage. raw_dir: the
files of the part, needed once. pretrained: torchvision's VGG-16 (docs/data.md says how to make the file).
trial=2000: four epochs a stage of so many images at random, to see that everything works (docs/large_sets.md).
recipe=paper (the default): constant learning rates, 1e-3 and 1e-4, a meta step at each step, mixed meta data.
recipe=published: learning rates that rise for 5 epochs and then fall by a cosine, a meta step every 20 steps,
meta data without mixup, weighted losses divided by the batch size (Q3), pseudo-labels that start as the given
labels, and a teacher in train mode (Q16).
Both recipes: 40 epochs of plain cross-entropy first in each stage (Q9), Adam, mixup's alpha and the teacher's
momentum, as published; not given in the paper (Q70). Stage two starts from the last epoch (Q15). Left out of
the published code: Adam's first momentum, which falls to .1 after 40 epochs; batches of 60 in stage one of
mwnet and cmwnet; and clean meta data for aircraft.
Paper: paper_numbers.json, "table 7". Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import parse_arg
from experiments.common import as_trial, web_config

_PARTS = ("aircraft", "bird", "car")
_METHODS = ("erm", "mwnet", "cmwnet", "cmwnet_sl")
_FIRST = "_stage1"


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run of one stage."""
    defaults = {"part": "bird", "method": "cmwnet", "recipe": "paper", "seed": 0, "raw_dir": ""}
    args = parse_arg(arg, ("part", "method"), **defaults, pretrained="vgg16.safetensors", stage1="", trial=0)
    if args.part not in _PARTS:
        raise unknown_name("PART", args.part, _PARTS)
    name, published = args.method, args.recipe == "published"
    args.method = name.removesuffix(_FIRST)
    config = web_config(f"web_{args.part}", args)
    config.data.resize_pixels = config.data.crop_pixels = 448
    config.model.name = "bilinear_cnn"
    config.num_epochs = 200
    config.warmup_epochs = 40
    config.meta_every_steps = 20 if published else 1
    config.meta_set.mixup = not published
    config.mixup_alpha = 0.5
    config.soft_labels.teacher_momentum = 0.999
    config.optimizer.name = "adam"
    config.optimizer.decay_at_percent = ()
    if published:
        config.optimizer.schedule = "cosine"
        config.optimizer.linear_warmup_epochs = 5.0
    if name.endswith(_FIRST):
        config.model.pretrained = args.pretrained
        config.optimizer.trainable = ("head/*",)
        _set_rates(config, batch_size=64, learning_rate=1e-3, weight_decay=1e-8)
    else:
        # Without stage1, the folder of the sweep's first stage, so that no run starts from random weights.
        config.model.init = args.stage1 or f"{args.part}/{name}{_FIRST}/seed{args.seed}"
        _set_rates(config, batch_size=32, learning_rate=1e-4, weight_decay=1e-5)
    as_trial(config, args.trial)
    return config


def _set_rates(config: ConfigDict, *, batch_size: int, learning_rate: float, weight_decay: float) -> None:
    config.batch_size = batch_size
    config.optimizer.learning_rate = learning_rate
    config.optimizer.virtual_learning_rate = learning_rate
    config.optimizer.weight_decay = weight_decay


def get_cells() -> list[str]:
    """The config arguments of the table's cells, each of two stages."""
    return [f"{part},{method}" for part in _PARTS for method in _METHODS]


def get_first_stage(cell: str) -> str:
    """The stage-one cell whose classifier this cell starts from."""
    return "" if cell.endswith(_FIRST) else f"{cell}{_FIRST}"
