"""Table 15, Fig. 18: selective classification on long tails (E.3).

    python -m cmwnet_jax.sweep --config=experiments/table15_selective.py --workdir=DIR --only='cifar10,20,*'
    python -m cmwnet_jax.train --config=...:DATASET,FACTOR,METHOD,coverage=C,seed=N --workdir=RUN
    python -m cmwnet_jax.report DIR

DATASET: cifar10, cifar100 (VGG-16 for small images), or fashion_mnist (an MLP, for a CPU; not in the paper).
raw_dir=PATH reads local files: a folder of *-ubyte.gz, or an image folder or archive for CIFAR.
FACTOR: 200, 100, 50, 20, 10; 0 is the balanced set.
METHOD: selectivenet and selectivenet_cmwnet, a network per coverage (coverage=100 to 70, in per cent); erm and
cmwnet, one network for all coverages, by softmax response, are our controls.
Options by name: epochs=300 (30 for fashion_mnist), warmup=0 (epochs without weights; E.3 has none).

Thresholds are calibrated on 2,000 training images, as many of each class, that are set apart before the bias:
distributed as the test split is, and no test data. Their labels are not used. They are 4% of a balanced CIFAR.
E.3 is silent about the rest. Lambda 32, alpha 0.5 and the network, with one layer of 512 units and dropout, are
SelectiveNet's; crops and flips are as in Table 1, without SelectiveNet's rotations by up to 15 degrees. The
weight net's learning rate and weight decay are B.1's for CIFAR, and the default ones for fashion_mnist.
Paper: paper_numbers.json, "table 15". Ours: docs/results.md, for fashion_mnist with factors 20 and 100.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config, parse_arg
from experiments.common import cifar_config

_OWN_FILES = {"fashion_mnist": "mnist_format", "cifar10": "image_folder", "cifar100": "image_folder"}
_CLASSES = {"fashion_mnist": 10, "cifar10": 10, "cifar100": 100}
_FACTORS = (200, 100, 50, 20, 10, 0)
_COVERAGES = (100, 95, 90, 85, 80, 75, 70)
_CALIBRATION = 2000
_DROPS = 12  # E.3: every 25 of 300 epochs


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "fashion_mnist", "factor": 20, "method": "selectivenet_cmwnet", "seed": 0}
    more = {"coverage": 0.0, "epochs": 0, "warmup": 0, "raw_dir": ""}
    args = parse_arg(arg, ("dataset", "factor", "method"), **defaults, **more)
    if args.dataset not in _OWN_FILES:
        raise unknown_name("DATASET", args.dataset, _OWN_FILES)
    config = _mlp(args) if args.dataset == "fashion_mnist" else _vgg(args)
    if args.raw_dir:
        config.data.name, config.data.known_as = _OWN_FILES[args.dataset], args.dataset
        config.data.raw_dir = args.raw_dir
    config.data.bias = f"long_tail_{args.factor}" if args.factor else "none"
    config.data.calibration_per_class = _CALIBRATION // _CLASSES[args.dataset]
    if args.coverage:
        config.selectivenet.coverage_percent = args.coverage
    config.warmup_epochs = args.warmup
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_at_percent = tuple(100 * drop / _DROPS for drop in range(1, _DROPS))
    config.optimizer.decay_factor = 0.5
    config.meta_set.kind = "balanced"
    config.meta_set.mixup = False  # the paper mixes generated meta data alone
    config.meta_set.per_class_examples = 10
    return config


def _mlp(args: ConfigDict) -> ConfigDict:
    config = default_config()
    config.method, config.seed, config.data.name = args.method, args.seed, args.dataset
    config.num_epochs = args.epochs or 30
    config.watch.pictures_every_epochs = 0
    return config


def _vgg(args: ConfigDict) -> ConfigDict:
    config = cifar_config(args.dataset, args.method, args.seed, "paper")
    config.model.name = "vgg16_cifar"
    config.num_epochs = args.epochs or 300
    config.batch_size = 128
    config.weight_net.learning_rate = 1e-4
    config.weight_net.weight_decay = 1e-5
    return config


def get_cells() -> list[str]:
    """All combinations of data set and factor, with the controls and with a network per method and coverage."""
    selective = [
        f"{method},coverage={coverage}"
        for method in ("selectivenet", "selectivenet_cmwnet")
        for coverage in _COVERAGES
    ]
    return [
        f"{dataset},{factor},{method}"
        for dataset in _OWN_FILES
        for factor in _FACTORS
        for method in ("erm", "cmwnet", *selective)
    ]
