"""CMW-Net in JAX: learn, by meta-gradients, how much each training example should count.

Public names are loaded on first use, so that `cmwnet_jax.report` works without JAX.
"""

import importlib

_MODULE_OF = {
    "CMWNetClassifier": "estimator",
    "LossHistory": "core.loss_history",
    "MetaClasses": "core.meta_classes",
    "MetaState": "core.types",
    "Metrics": "core.types",
    "Objective": "core.types",
    "Preempted": "errors",
    "SavedWeightNet": "transfer",
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
