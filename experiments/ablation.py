r"""Which meta data? Their number, ranking, mixup and labels, on Fashion-MNIST with the MLP of compare.py.

    python -m cmwnet_jax.sweep --config=experiments/ablation.py --workdir=DIR --seeds=2 \
        --args=posterior=POSTERIORS/fashion_mnist.npy
    python -m cmwnet_jax.report DIR

BIAS: the biases of the README's table, or feature-dependent noise (35%) with flips to a similar class (30%),
which needs the posterior; transfer_mnist.py gives the commands for it.
VARIANT: erm, or METHOD-SIZE-RANK-MIXUP, e.g. cmwnet-10-now-mixed: at most SIZE meta examples per class, ranked
by RANK (now or history, see meta_set.rank_by), with meta batches that are mixed or plain. With -pseudo at the
end, their labels are the classifier's predictions instead of the given ones (Q20).
Options by name: epochs=30, raw_dir=PATH, posterior=PATH.
Paper: no such cell. Sec. 4.2 has 10 per class, ranked now, mixed. Ours: docs/results.md.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.config import parse_arg
from experiments import compare

_BIASES = ("long_tail_100", "symmetric_60", "asymmetric_60", "pmd1_35+asymmetric_30")
_VARIANTS = (
    "erm",
    "cmwnet-10-now-plain",
    "cmwnet-10-now-mixed",
    "cmwnet-10-history-plain",
    "cmwnet-10-history-mixed",
    "cmwnet-50-now-mixed",
    "cmwnet-50-history-mixed",
    "cmwnet_sl-10-now-mixed",
    "cmwnet_sl-10-history-mixed",
    "cmwnet_sl-10-history-mixed-pseudo",
)
_MIXUP = {"mixed": "on", "plain": "off"}


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    defaults = {"bias": "asymmetric_60", "variant": "cmwnet-10-now-mixed"}
    args = parse_arg(arg, tuple(defaults), **defaults, seed=0, epochs=30, raw_dir="", posterior="")
    method, *meta = args.variant.split("-")
    shared = f"seed={args.seed},epochs={args.epochs},raw_dir={args.raw_dir},posterior={args.posterior}"
    if not meta:
        return compare.get_config(f"fashion_mnist,{args.bias},{method},{shared}")
    size, rank, mixup, pseudo = (*meta, "", "", "", "")[:4]
    if len(meta) > 4 or not (size.isdecimal() and rank and mixup in _MIXUP and pseudo in ("", "pseudo")):
        raise UsageError(
            f"VARIANT is {args.variant!r}, expected METHOD-SIZE-RANK-MIXUP, then -pseudo or nothing: e.g. "
            f"{_VARIANTS[-1]}"
        )
    meta_data = f"per_class={size},rank={rank},meta_mixup={_MIXUP[mixup]}"
    config = compare.get_config(f"fashion_mnist,{args.bias},{method},{meta_data},{shared}")
    config.meta_set.pseudo_labels = bool(pseudo)
    return config


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return [f"{bias},{variant}" for bias in _BIASES for variant in _VARIANTS]
