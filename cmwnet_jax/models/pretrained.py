"""ImageNet weights from a local file with torchvision's names and layouts, or of self-supervised training."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cmwnet_jax import array_files
from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.models.memory_head import MEMORY


class _Layout(NamedTuple):
    """Name of the head in a model's file, and prefixes of names that the model does not use."""

    head: str
    unused: tuple[str, ...] = ()


_LAYOUTS = {
    "bilinear_cnn": _Layout("fc", unused=("classifier.",)),  # a VGG-16 file
    "resnet18": _Layout("fc"),
    "resnet34": _Layout("fc"),
    "resnet50": _Layout("fc"),
    "vgg16": _Layout("classifier.6"),
    "vgg16_bn": _Layout("classifier.6"),
    "vgg19_bn": _Layout("classifier.6"),
}

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class LoadReport(NamedTuple):
    """Which arrays of a file and of a model were used.

    Attributes:
        loaded: names in the file that were loaded.
        as_initialised: paths of the model's arrays that were not loaded, such as `params/head/kernel`.
        unused: names in the file that the model does not use, without the counters of BatchNorm's batches,
            which Flax does not have.
    """

    loaded: tuple[str, ...]
    as_initialised: tuple[str, ...]
    unused: tuple[str, ...]


def check_has_layout(model_name: str) -> None:
    """Raises a UsageError for a model whose names in a file are not known.

    Args:
        model_name: a name in `MODELS`.
    """
    if model_name not in _LAYOUTS:
        raise unknown_name("the model to load pretrained weights into", model_name, _LAYOUTS)


def load_pretrained(path: str | Path, model_name: str, variables: PyTree) -> tuple[PyTree, LoadReport]:
    """Loads weights and running statistics from a file.

    The file must have everything except the head with the right shapes, and nothing else. The head is loaded
    if it has the same number of classes. It stays as initialised if the number differs, if the file has no
    head, or if the model's head uses cosines. OLTR's memory stays in any case.

    A ResNet's file may also be of self-supervised training, such as SimCLR (C2D) or SupCon: wrappers before the
    names are left out (`module.encoder.`), `shortcut` is read as `downsample`, and a projection head is unused.

    Args:
        path: a `.safetensors` or `.npz` file with torchvision's names, such as `layer1.0.bn1.running_mean`;
            for `bilinear_cnn`, a VGG-16 file.
        model_name: a torchvision model in `MODELS`, or `bilinear_cnn`.
        variables: result of the model's `init`: `params` and, if there are any, `batch_stats`.

    Returns:
        The variables, float32, and a report.

    Raises:
        UsageError: there is no such file, its format is another, no file can fit the model's name, or the
            file's names and shapes are not the model's; the message lists them.
    """
    check_has_layout(model_name)
    layout, arrays = _LAYOUTS[model_name], _read(Path(path).expanduser())
    arrays, beside = _inner_network(path, arrays) if layout.head == "fc" else (arrays, set())
    flat = traverse_util.flatten_dict(variables)
    names = {key: _torch_name(key, layout.head) for key in flat if key[1] != MEMORY}
    head = {key for key in names if key[1] == "head"}
    in_file = {name for name in arrays if name.startswith(f"{layout.head}.")}
    same_names = in_file == {names[key] for key in head}
    if not (same_names and all(_shape(arrays[names[key]], key) == flat[key].shape for key in head)):
        names = {key: name for key, name in names.items() if key not in head}
    unused = {name for name in arrays if name.startswith(layout.unused)} | in_file - set(names.values())
    _check(path, model_name, arrays, {name: (key, flat[key].shape) for key, name in names.items()}, unused)
    loaded = {key: jnp.asarray(_flax_array(arrays[name], key), jnp.float32) for key, name in names.items()}
    report = LoadReport(
        loaded=tuple(sorted(names.values())),
        as_initialised=tuple(sorted("/".join(key) for key in flat if key not in names)),
        unused=tuple(sorted(unused | beside)),
    )
    return traverse_util.unflatten_dict({**flat, **loaded}), report


def _read(path: Path) -> dict[str, np.ndarray]:
    """A file's arrays by name as float32, without the counters of BatchNorm's batches."""
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl"):
        raise UsageError(
            f"{path} is a pickle, which could run any code and is not read, expected a .safetensors or .npz "
            f"file; where PyTorch is installed, convert it with `import torch, safetensors.torch; "
            f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})`"
        )
    if path.suffix not in (".safetensors", ".npz"):
        raise UsageError(f"{path} ends in {path.suffix!r}, expected a .safetensors or .npz file")
    said = f"{path} cannot be read", f"give a whole {path.suffix} file of floats, e.g. fetch it again"
    if path.suffix == ".safetensors":
        arrays, _ = array_files.read_safetensors(path, *said)
    else:
        arrays = array_files.read_npz(path, *said)
    arrays = {name: array for name, array in arrays.items() if not name.endswith(".num_batches_tracked")}
    return array_files.to_float32(arrays, *said)


_FIRST_OF_A_BLOCK = "layer1.0.conv1.weight"


def _inner_network(
    path: str | Path, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], set[str]]:
    """A ResNet's arrays by torchvision's names, and the names of all others in the file.

    Raises:
        UsageError: there are several networks in the file.
    """
    wrappers = [name.removesuffix(_FIRST_OF_A_BLOCK) for name in arrays if name.endswith(_FIRST_OF_A_BLOCK)]
    if len(wrappers) > 1:
        raise UsageError(
            f"{path} holds {len(wrappers)} networks, whose names begin with {' and '.join(sorted(wrappers))}, "
            f"expected one: leave out the arrays of the others (of MoCo, those of the momentum encoder)"
        )
    wrapper = wrappers[0] if wrappers else ""
    own = {
        name.removeprefix(wrapper).replace(".shortcut.", ".downsample."): array
        for name, array in arrays.items()
        if name.startswith(wrapper)
    }
    return own, {name for name in arrays if not name.startswith(wrapper)}


def _torch_name(key: tuple[str, ...], head: str) -> str:
    """("params", "layer1_0", "conv1", "kernel") -> "layer1.0.conv1.weight"."""
    modules = [head if name == "head" else re.sub(r"_(\d+)$", r".\1", name) for name in key[1:-1]]
    return ".".join((*modules, _LEAVES[key[-1]]))


def _flax_array(array: np.ndarray, key: tuple[str, ...]) -> np.ndarray:
    """Converts an array of the file to Flax's layout.

    Convolutions are [out, in, height, width] in the file and [height, width, in, out] here; linear layers are
    [out, in] and [in, out]. VGG's first linear layer reads 7x7 positions with 512 channels. When these are
    flattened, the channels are the first axis in the file and the last one here.
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2 and key[-2] == "classifier_0" and array.shape[1] % 49 == 0:
        places_last = array.reshape(len(array), -1, 7, 7)
        return places_last.transpose(2, 3, 1, 0).reshape(-1, len(array))
    return array.T


def _shape(array: np.ndarray, key: tuple[str, ...]) -> tuple[int, ...]:
    return _flax_array(array, key).shape


def _check(
    path: str | Path,
    model_name: str,
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]],
    unused: set[str],
) -> None:
    """Raises a UsageError that lists all differences.

    Args:
        path: the file.
        model_name: the model.
        arrays: contents of the file.
        wanted: key and shape of each required array.
        unused: names that are allowed.
    """
    misshaped = [
        f"{name} ({'x'.join(map(str, _shape(arrays[name], key)))} instead of {'x'.join(map(str, shape))})"
        for name, (key, shape) in wanted.items()
        if name in arrays and _shape(arrays[name], key) != shape
    ]
    lists = {
        "missing": sorted(set(wanted) - set(arrays)),
        "unexpected": sorted(set(arrays) - set(wanted) - unused),
        "misshaped, in Flax's layout": sorted(misshaped),
    }
    said = [f"{what}: {_some(names)}" for what, names in lists.items() if names]
    if said:
        raise UsageError(
            f"{path} does not have the weights of a {model_name} with torchvision's names ({'; '.join(said)}); "
            "give the file of that model, or the model of that file"
        )


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
