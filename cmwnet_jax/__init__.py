"""CMW-Net in JAX: learn, by meta-gradients, how much each training example should count.

The public names are loaded when they are first used, so that `cmwnet_jax.report` works on a machine
without JAX.
"""

import importlib

_MODULE_OF = {
    "MetaClasses": "meta_classes",
    "MetaState": "types",
    "Metrics": "types",
    "Objective": "types",
    "Preempted": "errors",
    "SavedWeightNet": "transfer",
    "UsageError": "errors",
    "WeightNet": "weight_net",
    "classification_meta_loss": "objectives",
    "classification_objective": "objectives",
    "cross_entropy": "losses",
    "load_weight_net": "transfer",
    "make_low_memory_step": "low_memory",
    "make_meta_step": "meta_step",
    "make_weighted_step": "meta_step",
    "save_weight_net": "transfer",
    "weighting_functions": "weight_net",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
