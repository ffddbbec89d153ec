"""Shapes, dtypes and checksums of a file's arrays, and comparison of such lists."""

import zlib

import jax
import numpy as np

from cmwnet_jax.core.types import PyTree

Facts = dict[str, dict]
"""Path of an array in its tree, e.g. `params/hidden_0/kernel` -> its `shape`, `dtype` and `crc32`."""

_LISTED = 8  # differences that a message lists


def to_host(tree: PyTree) -> PyTree:
    """Converts leaves to numpy arrays; Orbax would read Python numbers back as another type.

    Args:
        tree: leaves are JAX or numpy arrays, or numbers.
    """
    return jax.tree.map(np.asarray, jax.device_get(tree))


def named(tree: PyTree) -> list[tuple[str, np.ndarray]]:
    """Each array with its path in the tree.

    Args:
        tree: leaves are arrays, or have a shape and a dtype.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def facts(tree: PyTree) -> Facts:
    """Shape, dtype and checksum of each array.

    The file format has no checksum over the values: after a flipped bit in a compressed chunk, other numbers
    would be read without an error.

    Args:
        tree: leaves are numpy arrays.
    """
    return {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": _crc32(array)}
        for name, array in named(tree)
    }


def mismatches(found: Facts, expected: PyTree) -> str:
    """Lists differences in names, shapes and dtypes of arrays; empty if there are none.

    Args:
        found: facts of the file.
        expected: a pytree of arrays, or of leaves with a shape and a dtype.
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
    """Names of the arrays whose values have changed since they were saved.

    Args:
        found: the facts saved with the arrays.
        tree: the arrays as read; leaves are numpy arrays.
    """
    return [name for name, array in named(tree) if found[name]["crc32"] != _crc32(array)]


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
