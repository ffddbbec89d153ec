"""Weight nets in small safetensors files, safe to read from any source; the header holds JSON.

Also reads the authors' published weight net, converted to `.npz`.
"""

import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import traverse_util

from cmwnet_jax import array_files
from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.files import file_to_write, local_path, refused, replace_file
from cmwnet_jax.transfer import array_facts
from cmwnet_jax.transfer.saved import SavedWeightNet, check_format

SUFFIX = ".safetensors"
_KEY, _CHECKSUM = "cmwnet_jax", "crc32"
_REMEDY = "use another copy, or one that python -m cmwnet_jax.transfer export writes"

PUBLISHED_HEADS = (1, 2, 0)
"""Heads of the published weight net for small, moderate and large classes; its order is random (Q6)."""

_PUBLISHED_LOSSES = (0.0, 8.0)
_PUBLISHED_HEADER = {
    "source": "the authors' published weight net (vnet_119.pth)",
    "dataset": "cifar10",
    "bias": "PMD type I 35% and asymmetric 30%",
    "method": "CMW-Net-SL",
    "model": "resnet34_cifar_unpadded",
    "normalize": "mean",
    "epochs_done": 120,
    "assumed": "the file says nothing of its class sizes, and of its losses nothing: 0 to 8 is assumed",
}


def write_file(path: str | os.PathLike, saved: SavedWeightNet) -> None:
    """Writes a weight net to a file, whole or not at all.

    Args:
        path: a file that ends in .safetensors; its folder is created if it is missing.
        saved: the weight net.

    Raises:
        UsageError: the file exists, has another ending, or the parts of the weight net do not match each other.
    """
    path = file_to_write("the file to write", path, SUFFIX)
    if os.path.lexists(path):
        raise UsageError(f"the file to write is {str(path)!r}, which exists: choose another")
    content = encoded(saved)
    with refused("the file to write", path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)  # files of save_file would not be readable by others


def encoded(saved: SavedWeightNet) -> bytes:
    """The bytes that `write_file` writes.

    Args:
        saved: the weight net.

    Raises:
        UsageError: its parts do not match each other.
    """
    saved.check()
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in traverse_util.flatten_dict(saved.weight_params, sep="/").items()
    }
    text = json.dumps(saved.about())
    return safetensors.numpy.save(arrays, {_KEY: text, _CHECKSUM: _checksum(text, saved.weight_params)})


def _checksum(text: str, weight_params: PyTree) -> str:
    """Checksum of the JSON text and of each array's name, shape, dtype and values."""
    facts = json.dumps(array_facts.facts(weight_params), sort_keys=True)
    return f"{zlib.crc32(f'{text} {facts}'.encode()):08x}"


def read_file(path: str | os.PathLike, heads: Sequence[int] = PUBLISHED_HEADS) -> SavedWeightNet:
    """Reads a weight net from a file written by `write_file`, or from one with the published names.

    Args:
        path: a file that ends in .safetensors, or in .npz for the published names (`feature.layer.0.weight`,
            `classfier.layers.0.0.weight` and so on).
        heads: only for published names: the numbers of the file's heads, in ascending order of class size.

    Raises:
        UsageError: the file does not exist, is damaged, has an unknown format, or holds no weight net.
    """
    path = local_path("path", path)
    if path.suffix not in (SUFFIX, ".npz"):
        raise UsageError(
            f"{path} ends in {path.suffix!r}, expected {SUFFIX} or .npz; pickles (.pth) could run any code "
            f"and are not read: convert one with numpy.savez where PyTorch is installed"
        )
    if path.suffix == ".npz":
        return _published(path, heads)
    problem = f"{path} holds no weight net that can be read"
    flat, metadata = array_files.read_safetensors(path, problem, _REMEDY, finite=False)
    if not metadata.keys() & {_KEY, _CHECKSUM}:
        raise UsageError(
            f"{path} has other arrays, it holds no weight net that can be read, expected a file that "
            f"`python -m cmwnet_jax.transfer export` has written: check the path"
        )
    with array_files.reading(path, problem, _REMEDY):
        header = json.loads(metadata[_KEY])
        check_format(path, header)
        weight_params = traverse_util.unflatten_dict(flat, sep="/")
        with naming_field(str(path)):
            saved = SavedWeightNet.of(weight_params, header)
        _check_whole(path, metadata, weight_params)
    return saved


def _check_whole(path: Path, metadata: dict[str, str], weight_params: PyTree) -> None:
    """Verifies the checksum; files of earlier versions have none, and only the JSON as metadata."""
    if metadata.keys() == {_KEY}:
        return
    if metadata.get(_CHECKSUM) != _checksum(metadata[_KEY], weight_params):
        raise UsageError(f"{path} is damaged, it holds other values than were written: use another copy")


def _published(path: Path, heads: Sequence[int]) -> SavedWeightNet:
    """Converts the published layout: Torch's [out, in] kernels, and a separate layer per head."""
    problem = f"{path} cannot be read"
    arrays = array_files.read_npz(path, problem, _REMEDY)
    arrays = array_files.to_float32(arrays, problem, _REMEDY)
    names = [f"classfier.layers.{head}.0" for head in heads]
    count = sum(name.startswith("classfier.layers.") and name.endswith(".weight") for name in arrays)
    wanted = {f"{layer}.{part}" for layer in ("feature.layer.0", *names) for part in ("weight", "bias")}
    if count == 0 or not wanted <= arrays.keys() or sorted(heads) != list(range(count)):
        raise UsageError(
            f"{path} has the arrays {', '.join(sorted(arrays))}, expected {', '.join(sorted(wanted))}: take a "
            f"file of the published names, and each of its heads once in the order of class size"
        )
    weight_params = {
        "params": {
            "shared": {"kernel": arrays["feature.layer.0.weight"].T, "bias": arrays["feature.layer.0.bias"]},
            "heads": {
                "kernel": np.concatenate([arrays[f"{name}.weight"] for name in names]).T,
                "bias": np.concatenate([arrays[f"{name}.bias"] for name in names]),
            },
        }
    }
    saved = SavedWeightNet(
        weight_params,
        np.full(count, math.nan),
        _PUBLISHED_LOSSES,
        {**_PUBLISHED_HEADER, "heads": list(heads)},
    )
    saved.check()
    return saved
