"""From the classifier's constructor arguments to a run's config and model."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict
from sklearn.utils import check_random_state

from cmwnet_jax.core.objectives import TRAIN_SWITCHES, train_mode
from cmwnet_jax.data import kinds
from cmwnet_jax.data.in_memory import NAME
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import mixing_off, shown, value_of
from cmwnet_jax.train import parallel
from cmwnet_jax.train.check_types import check_types
from cmwnet_jax.train.config import all_fields, default_config
from cmwnet_jax.train.small_data import lowered

_ARGUMENTS = {
    "method": "method",
    "hidden": "model.hidden",
    "epochs": "num_epochs",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
    "num_meta_classes": "weight_net.num_meta_classes",
}
"""Constructor argument -> the config field that it sets."""

_WITHOUT_FOLDER = ("data.", "checkpoint.", "watch.", "audit.")


_OF_KIND = {
    kinds.VECTORS: {},
    kinds.IMAGES: {},
    kinds.TOKENS: {"model.name": "bag_of_embeddings"},
}
"""Kind of input -> config fields whose defaults are not for it, besides those of mixup."""


def make_config(
    arguments: Mapping[str, Any],
    further: Mapping[str, Any] | None,
    random_state: Any,
    class_counts: np.ndarray,
    kind: str = kinds.VECTORS,
) -> ConfigDict:
    """Makes the config of a run on arrays.

    What does not fit small data is lowered: `batch_size` to the number of examples (and to a multiple of the
    devices), `num_meta_classes` to the number of distinct class sizes unless `weight_net.init` names a weight
    net, and the warm-up to a tenth of the epochs.

    Args:
        arguments: value of each name in `_ARGUMENTS`.
        further: values of other config fields by dotted name; None for none.
        random_state: as scikit-learn takes it; a whole number is the run's seed.
        class_counts: [C] int, examples per class.
        kind: one of `data.kinds.DTYPES`.

    Raises:
        UsageError: an argument has the wrong type or value, or a name in `further` is not for a run on arrays.
    """
    arguments = {name: _plain(name, value) for name, value in arguments.items()}
    fields, config = all_fields(), default_config()
    defaults = {name: value_of(config, field) for name, field in _ARGUMENTS.items()}
    check_types(ConfigDict(arguments), ConfigDict(defaults))
    for name, field in _ARGUMENTS.items():
        fields[field].check(name, arguments[name])
    values = {field: arguments[name] for name, field in _ARGUMENTS.items()}
    further = _further(further)
    learned = bool(further.get("weight_net.init"))
    values |= lowered(arguments["batch_size"], arguments["num_meta_classes"], class_counts, learned=learned)
    values["batch_size"] = _shared(values["batch_size"])
    values["warmup_epochs"] = min(config.warmup_epochs, arguments["epochs"] // 10)
    values["meta_set.batch_size"] = _shared(config.meta_set.batch_size)
    values |= {"seed": _seed(random_state), "data.name": NAME} | _OF_KIND[kind]
    values |= mixing_off(METHODS[arguments["method"]].fields) if kind == kinds.TOKENS else {}
    values |= further
    with config.ignore_type():  # check_config looks at the types, with better messages
        config.update_from_flattened_dict(values)
    if config.meta_set.kind == "held_out":
        raise UsageError(
            "meta_set.kind is 'held_out', but no labels of arrays are known to be right: use lowest_loss or "
            "balanced in config"
        )
    return config


def _plain(name: str, value: Any) -> Any:
    """NumPy's numbers, as searches over parameters give them, and sequences of them become Python's."""
    if name == "hidden" and isinstance(value, list | tuple | np.ndarray):
        return tuple(_plain("", width) for width in value)
    if name == "hidden" and isinstance(value, int | np.integer) and not isinstance(value, bool):
        return (int(value),)
    return value.item() if isinstance(value, np.generic) else value


def _shared(size: int) -> int:
    """The largest batch size up to `size` that the devices can share evenly."""
    count = parallel.device_count()
    if size < count:
        raise UsageError(
            f"a batch comes to {size} examples, expected at least one for each of {count} devices: raise "
            f"batch_size, give more examples, or use fewer devices (CUDA_VISIBLE_DEVICES, JAX_PLATFORMS=cpu)"
        )
    return parallel.round_down("batch_size", size)


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _further(further: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks the names of further config fields."""
    further = {} if further is None else further
    if not isinstance(further, Mapping):
        raise UsageError(
            f"config is {shown(further)}, expected a mapping of config fields by name, e.g. "
            f"{{'weight_net.learning_rate': 1e-3}}: give one, or None"
        )
    arguments = {field: name for name, field in _ARGUMENTS.items()} | {"seed": "random_state"}
    for name in further:
        if name in arguments:
            raise UsageError(f"config has {name!r}, which the argument {arguments[name]} sets: give it there")
        if name not in all_fields():
            raise unknown_name("a name in config", name, all_fields())
        if name.startswith(_WITHOUT_FOLDER):
            raise UsageError(
                f"config has {name!r}, which is for runs that read a data set and write a folder: leave it out"
            )
    return {name: _plain("", value) for name, value in further.items()}


def check_module(module: Any) -> nn.Module:
    """Checks a user's module, and wraps it if it does not take `train`.

    Args:
        module: a Linen module, inputs [n, ...] -> logits [n, C], with any of `TRAIN_SWITCHES` or none.

    Raises:
        UsageError: it is something else, has fields that cannot be hashed, or none of these switches, but a
            field or argument that may keep it in evaluation mode.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"module is {shown(module)}, expected an instance of a flax.linen.Module, or None for an MLP: make "
            f"one, e.g. MyNet()"
        )
    try:
        hash(module)
    except TypeError as error:
        raise UsageError(
            f"module is a {type(module).__name__} whose fields cannot be hashed, expected values such as keys "
            f"of a dictionary: use tuples instead of lists"
        ) from error
    takes = inspect.signature(type(module).__call__).parameters
    switches = tuple(name for name in TRAIN_SWITCHES if name in takes)
    if not switches:
        try:
            train_mode(module.apply)  # which cannot see through the wrapper below
        except UsageError as error:
            raise UsageError(
                f"module: {str(error).partition(': ')[0]}: give its __call__ an argument train instead"
            ) from error
    return module if "train" in switches else _WithTrain(module, switches)


class _WithTrain(nn.Module):
    """A module with other switches than `train`, or none.

    Attributes:
        module: the module.
        switches: its arguments that are names in `TRAIN_SWITCHES`.
    """

    module: nn.Module
    switches: tuple[str, ...]

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = True) -> jax.Array:
        """As the module, in training or evaluation mode."""
        return self.module(inputs, **{name: TRAIN_SWITCHES[name] == train for name in self.switches})
