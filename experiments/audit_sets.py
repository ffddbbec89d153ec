"""Sets whose wrong labels are known, to compare scores of suspicious labels on (experiments/audit_table.py).

    python -m experiments.make_tables --output=TABLES
    python -m cmwnet_jax.sweep --config=experiments/audit_sets.py --workdir=DIR --args=tables=TABLES,texts=TEXTS
    python -m experiments.audit_table DIR --output=FOLDER --folds=5

SET: fashion_symmetric, fashion_asymmetric, fashion_pmd (as in compare.py: 60%, 60%, and 35% feature-dependent
noise with 30% flips); cifar10n_worse (as in human_noise.py, 30 epochs); digits (the demo's bias) and
digits_symmetric (40%); breast_cancer (20% of the labels wrong); blobs (made up, see make_tables.py); texts
(Banking77, 77 classes, symmetric 20%; its weight decay was chosen on this set, see own_texts.py).
METHOD: erm, cmwnet or cmwnet_sl.
Options by name: tables=FOLDER; texts=FOLDER (train.csv and test.csv of Banking77); raw_dir and posterior as in
compare.py; features and human_labels as in human_noise.py.
Paper: no such cell. Ours: docs/audit.md.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import parse_arg
from experiments import compare, digits, human_noise, own_texts

_FASHION = {
    "fashion_symmetric": "symmetric_60",
    "fashion_asymmetric": "asymmetric_60",
    "fashion_pmd": "pmd1_35+asymmetric_30",
}
_DIGITS = {"digits": "long_tail_5+asymmetric_60", "digits_symmetric": "symmetric_40"}
_TABLES = {"breast_cancer": "uniform_20", "blobs": "none"}
_SETS = (*_FASHION, "cifar10n_worse", *_DIGITS, *_TABLES, "texts")
_METHODS = ("erm", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    files = dict.fromkeys(("tables", "texts", "raw_dir", "posterior", "features", "human_labels"), "")
    args = parse_arg(arg, ("set", "method"), set="digits", method="cmwnet", seed=0, **files)
    shared = f"{args.method},seed={args.seed}"
    if args.set in _FASHION:
        return compare.get_config(
            f"fashion_mnist,{_FASHION[args.set]},{shared},raw_dir={args.raw_dir},posterior={args.posterior}"
        )
    if args.set == "cifar10n_worse":
        return human_noise.get_config(
            f"worse,{shared},epochs=30,features={args.features},human_labels={args.human_labels}"
        )
    if args.set in _DIGITS:
        return digits.get_config(f"{_DIGITS[args.set]},{shared}")
    if args.set == "texts":
        config = own_texts.get_config(
            f"{args.texts},category,method={args.method},seed={args.seed},bias=symmetric_20"
        )
        config.data.truth = "known"
        return config
    if args.set not in _TABLES:
        raise unknown_name("SET", args.set, _SETS)
    return _table(args)


def _table(args: ConfigDict) -> ConfigDict:
    config = digits.get_config(f"{_TABLES[args.set]},{args.method},seed={args.seed}")  # small networks, too
    config.data.name, config.data.raw_dir = "arrays", f"{args.tables}/{args.set}.npz"
    config.data.truth = "known"
    if args.set == "breast_cancer":
        config.weight_net.num_meta_classes = 2
    return config


def get_cells() -> list[str]:
    """All combinations of set and method."""
    return [f"{name},{method}" for name in _SETS for method in _METHODS]
