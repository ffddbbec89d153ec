"""Weight-net transfer on a CPU: learned on 10,000 images, then frozen on 60,000 (Algorithm 2).

    python -m cmwnet_jax.train --config=experiments/compare.py:fashion_mnist,none,erm --workdir=CLEAN
    python -m cmwnet_jax.data posterior --workdir=CLEAN --output=POSTERIORS/fashion_mnist.npy  # mnist likewise
    python -m cmwnet_jax.sweep --config=experiments/transfer_mnist.py --workdir=DIR --seeds=3 \\
        --args=posteriors=POSTERIORS,published=published_weight_net.npz
    python -m cmwnet_jax.report DIR

DATASET,METHOD: learn,mwnet, learn,cmwnet and learn,cmwnet_sl train a weight net on 10,000 images of
Fashion-MNIST; learn,untrained saves its random initialisation. On all of fashion_mnist or mnist: erm, or a new
classifier with one of these weight nets frozen: mwnet, cmwnet, cmwnet_sl, untrained or published (the authors',
imported; theirs was learned with pseudo-labels, too). The sweep first trains the cells that other cells need.
All cells have the bias of Table 4: 35% feature-dependent noise and 30% flips to a similar class.
Options by name: epochs=30, of which a third are warm-up; learn_epochs=60, learn_warmup=3; learn_rate=1e-3 and
learn_decay=1e-4, the weight net's; raw_dir=PATH (Fashion-MNIST's files), mnist_raw_dir=PATH.
Paper: no such cell; Tables 8, 9 and 12 study the same question on larger sets.
Ours: docs/results.md.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.train.config import default_config, parse_arg

_BIAS = "pmd1_35+asymmetric_30"
_LEARNED = ("mwnet", "cmwnet", "cmwnet_sl", "untrained")
_USED = ("erm", *_LEARNED, "published")
_METHODS = {"learn": _LEARNED, "fashion_mnist": _USED, "mnist": _USED}


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"dataset": "fashion_mnist", "method": "erm", "seed": 0, "stage1": ""}
    files = {"posteriors": "", "published": "", "raw_dir": "", "mnist_raw_dir": ""}
    learning = {"epochs": 30, "learn_epochs": 60, "learn_warmup": 3, "learn_rate": 1e-3, "learn_decay": 1e-4}
    args = parse_arg(arg, ("dataset", "method"), **defaults, **files, **learning)
    if args.dataset not in _METHODS:
        raise unknown_name("DATASET", args.dataset, _METHODS)
    if args.method not in _METHODS[args.dataset]:
        raise unknown_name(f"METHOD of {args.dataset}", args.method, _METHODS[args.dataset])
    learns = args.dataset == "learn"
    dataset = "fashion_mnist" if learns else args.dataset
    raw_dir = args.mnist_raw_dir if dataset == "mnist" else args.raw_dir
    config = default_config()
    config.method = args.method if learns or args.method in ("erm", "mwnet") else "cmwnet"
    config.seed = args.seed
    config.data.name = "mnist_format" if raw_dir else dataset
    config.data.known_as = dataset if raw_dir else ""
    config.data.raw_dir = raw_dir
    config.data.posterior = f"{args.posteriors}/{dataset}.npy" if args.posteriors else ""
    config.data.bias = f"subset_10000+{_BIAS}" if learns else _BIAS
    config.num_epochs = args.learn_epochs if learns else args.epochs
    config.warmup_epochs = min(args.learn_warmup, args.learn_epochs // 3) if learns else args.epochs // 3
    config.watch.pictures_every_epochs = 0
    if learns:
        config.weight_net.learning_rate, config.weight_net.weight_decay = args.learn_rate, args.learn_decay
    if learns and args.method == "untrained":
        config.method = "cmwnet"
        config.num_epochs, config.warmup_epochs = 1, 0
        config.weight_net.frozen, config.weight_net.learning_rate = True, 0.0
    if not learns and args.method != "erm":
        config.weight_net.init = _weight_net(args)
        config.weight_net.frozen = True
    return config


def _weight_net(args: ConfigDict) -> str:
    name, what = (
        ("published", "PATH") if args.method == "published" else ("stage1", f"RUN of learn,{args.method}")
    )
    if not args[name]:
        raise UsageError(f"{args.dataset},{args.method} has no weight net: append {name}={what}")
    return args[name]


def get_cells() -> list[str]:
    """The config arguments of the cells in the table of docs/results.md."""
    return [f"{dataset},{method}" for dataset, methods in _METHODS.items() for method in methods]


def get_first_stage(cell: str) -> str:
    """The cell whose weight net this cell uses."""
    dataset, method = cell.split(",")
    return f"learn,{method}" if dataset != "learn" and method in _LEARNED else ""
