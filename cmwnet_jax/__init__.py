"""CMW-Net in JAX: learn, by meta-gradients, how much each training example should count.

Public names are loaded on first use, so that `cmwnet_jax.report` works without JAX, and a step without the
launcher's requirements.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what the tables below name, for editors and type checkers
    from cmwnet_jax.audit.suspects import find_suspects as find_suspects
    from cmwnet_jax.core import class_balance as class_balance
    from cmwnet_jax.core import free_weights as free_weights
    from cmwnet_jax.core import losses as losses
    from cmwnet_jax.core import mixing as mixing
    from cmwnet_jax.core import objectives as objectives
    from cmwnet_jax.core import partial_labels as partial_labels
    from cmwnet_jax.core import schedules as schedules
    from cmwnet_jax.core import selective as selective
    from cmwnet_jax.core import semi_supervised as semi_supervised
    from cmwnet_jax.core import soft_labels as soft_labels
    from cmwnet_jax.core import table as table
    from cmwnet_jax.core import transition as transition
    from cmwnet_jax.core.loss_history import LossHistory as LossHistory
    from cmwnet_jax.core.losses import cross_entropy as cross_entropy
    from cmwnet_jax.core.low_memory import make_low_memory_step as make_low_memory_step
    from cmwnet_jax.core.meta_classes import MetaClasses as MetaClasses
    from cmwnet_jax.core.meta_examples import lowest_loss as lowest_loss
    from cmwnet_jax.core.meta_step import make_meta_step as make_meta_step
    from cmwnet_jax.core.meta_step import make_weighted_step as make_weighted_step
    from cmwnet_jax.core.objectives import classification_meta_loss as classification_meta_loss
    from cmwnet_jax.core.objectives import classification_objective as classification_objective
    from cmwnet_jax.core.types import MetaState as MetaState
    from cmwnet_jax.core.types import Metrics as Metrics
    from cmwnet_jax.core.types import Objective as Objective
    from cmwnet_jax.core.weight_net import WeightNet as WeightNet
    from cmwnet_jax.core.weight_net import weighting_functions as weighting_functions
    from cmwnet_jax.errors import Preempted as Preempted
    from cmwnet_jax.errors import TrainingDiverged as TrainingDiverged
    from cmwnet_jax.errors import UsageError as UsageError
    from cmwnet_jax.estimator import CMWNetClassifier as CMWNetClassifier
    from cmwnet_jax.transfer import SavedWeightNet as SavedWeightNet
    from cmwnet_jax.transfer import load_weight_net as load_weight_net
    from cmwnet_jax.transfer import save_weight_net as save_weight_net

_MODULE_OF = {
    "CMWNetClassifier": "estimator",
    "LossHistory": "core.loss_history",
    "MetaClasses": "core.meta_classes",
    "MetaState": "core.types",
    "Metrics": "core.types",
    "Objective": "core.types",
    "Preempted": "errors",
    "SavedWeightNet": "transfer",
    "TrainingDiverged": "errors",
    "UsageError": "errors",
    "WeightNet": "core.weight_net",
    "classification_meta_loss": "core.objectives",
    "classification_objective": "core.objectives",
    "cross_entropy": "core.losses",
    "find_suspects": "audit.suspects",
    "load_weight_net": "transfer",
    "lowest_loss": "core.meta_examples",
    "make_low_memory_step": "core.low_memory",
    "make_meta_step": "core.meta_step",
    "make_weighted_step": "core.meta_step",
    "save_weight_net": "transfer",
    "weighting_functions": "core.weight_net",
}

__all__ = list(_MODULE_OF)


_MODULES = (
    "losses",
    "mixing",
    "objectives",
    "soft_labels",
    "free_weights",
    "class_balance",
    "schedules",
    "table",
    "semi_supervised",
    "partial_labels",
    "selective",
    "transition",
)
"""Public modules of `core`, e.g. `cmw.losses.focal`."""


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.core.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
