"""What a file of arrays should hold: each array's shape, dtype and checksum, and how two such lists differ."""

import zlib

import jax
import numpy as np

from cmwnet_jax.core.types import PyTree

Facts = dict[str, dict]
"""By an array's path in its tree, e.g. `params/hidden_0/kernel`: its `shape`, `dtype` and `crc32`."""

_LISTED = 8  # differences that a message spells out


def to_host(tree: PyTree) -> PyTree:
    """The tree with numpy arrays as leaves; Orbax would read Python numbers back as something else.

    Args:
        tree: leaves are JAX or numpy arrays, or numbers.
    """
    return jax.tree.map(np.asarray, jax.device_get(tree))


def named(tree: PyTree) -> list[tuple[str, np.ndarray]]:
    """Each array with its path in the tree.

    Args:
        tree: leaves are arrays, or anything that stands for one.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def facts(tree: PyTree) -> Facts:
    """Shape, dtype and checksum of each array.

    The checksum is ours because the file format has none over the values: a flipped bit in a
    compressed chunk reads back as other numbers, without an error.

    Args:
        tree: leaves are numpy arrays.
    """
    return {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": _crc32(array)}
        for name, array in named(tree)
    }


def mismatches(found: Facts, expected: PyTree) -> str:
    """Where a file's arrays are not of the names, shapes and dtypes that are expected; empty where they are.

    Args:
        found: of the file.
        expected: a pytree of arrays, or of anything with a shape and a dtype.
    """
    wanted = {name: f"{tuple(array.shape)} {array.dtype}" for name, array in named(expected)}
    had = {name: f"{tuple(fact['shape'])} {fact['dtype']}" for name, fact in found.items()}
    lines = [
        f"{name}: found {had.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | had.keys())
        if wanted.get(name) != had.get(name)
    ]
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "; ".join(lines[:_LISTED]) + more


def damaged(found: Facts, tree: PyTree) -> list[str]:
    """Names of the arrays whose values are not those that were saved.

    Args:
        found: the facts that were saved with them.
        tree: leaves are numpy arrays, as read.
    """
    return [name for name, array in named(tree) if found[name]["crc32"] != _crc32(array)]


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
