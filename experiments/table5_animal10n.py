r"""Table 5: ANIMAL-10N, VGG-19 with BatchNorm (Sec. 5.1, C.1).

    python -m cmwnet_jax.train --config=experiments/table5_animal10n.py:cmwnet,raw_dir=PATH --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/table5_animal10n.py --workdir=DIR --seeds=3 \
        --args=raw_dir=PATH
    python -m cmwnet_jax.report DIR

METHOD: erm, plc, mwnet, cmwnet, cmwnet_sl, or any other method of cmwnet_jax. raw_dir: the unpacked
raw_image.zip, needed once. 50,000 images of 64 x 64 pixels are kept on the devices. trial=2000: four epochs of
so many images at random, to see that everything works (docs/large_sets.md).
recipe=paper (the default): a meta step at each step, mixed meta data.
recipe=published: no momentum, a meta step every 10 steps, meta data without mixup, weighted losses divided by
the batch size (Q3), pseudo-labels that start as the given labels, and a teacher in train mode (Q16).
Both recipes: 20 epochs of plain cross-entropy first (Q9) and mixup's alpha, as published; the paper gives
neither.
Paper: paper_numbers.json, "table 5", 3 trials. Ours: not measured.
"""

from ml_collections import ConfigDict

from cmwnet_jax.train.config import parse_arg
from experiments.common import as_for_animal10n, as_trial, web_config

_METHODS = ("erm", "plc", "mwnet", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    args = parse_arg(arg, ("method",), method="cmwnet", recipe="paper", seed=0, raw_dir="", trial=0)
    config = web_config("animal10n", args)
    as_for_animal10n(config, args.recipe)
    if args.recipe == "published":
        config.meta_every_steps = 10
        config.meta_set.mixup = False
    as_trial(config, args.trial)
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return list(_METHODS)
