r"""Table 4: feature-dependent (35%) plus feature-independent (30%) label noise, ResNet-34 (Sec. 4.3).

    python -m cmwnet_jax.train \
        --config=experiments/table4_hybrid.py:cifar10,pmd1_35+asymmetric_plc_30,cmwnet,posterior=cifar10.npy \
        --workdir=DIR
    python -m cmwnet_jax.sweep --config=experiments/table4_hybrid.py --workdir=DIR --seeds=3 \
        --only='cifar10,*' --args=posterior=cifar10.npy
    python -m cmwnet_jax.report DIR

DATASET,BIAS,METHOD: as in table3_pmd.py; settings, recipes and posterior are also the same. The
feature-independent noise is that of the published generator: uniform_30 and asymmetric_plc_30 (Q24). The
published weight net was trained on cifar10,pmd1_35+asymmetric_plc_30,cmwnet_sl,recipe=published.
Paper: paper_numbers.json, "table 4", 3 trials. Ours: not measured.
"""

from ml_collections import ConfigDict

from experiments import table3_pmd

_METHODS = ("erm", "lrt", "gce", "mwnet", "plc", "cmwnet", "cmwnet_sl")


def get_config(arg: str = "") -> ConfigDict:
    """The config of one run."""
    return table3_pmd.get_config(arg, default_bias="pmd1_35+asymmetric_plc_30")


def get_cells() -> list[str]:
    """The config arguments of the table's cells."""
    return [
        f"{dataset},pmd{kind}_35+{other}_30,{method}"
        for dataset in ("cifar10", "cifar100")
        for kind in (1, 2, 3)
        for other in ("uniform", "asymmetric_plc")
        for method in _METHODS
    ]
