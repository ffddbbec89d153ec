"""Checksums of a prepared data set, stored beside it: of its labels and ids, and of its files.

The records have checksums of their own, which detect a flipped bit in an image when it is read. They do not
detect that a file was exchanged or claims to hold fewer examples. The copy of the labels that the streaming
path reads has no checksum either. A set that was prepared without these checksums can still be opened; they
are added when it is first read.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular, remove_partial_files, replace_file

_NAME = "checksums.json"
_KEPT = ("labels-*.npy", "names-*.json", "sizes-*.npy")  # copies, which are made again if they cannot be used
# Files up to this size are read when a set is opened; of larger ones only the size is checked.
_READ_BYTES = 1 << 20


class Digest:
    """Running checksum of a split's labels, ids and other integers, in the order of its examples."""

    def __init__(self):
        self._examples, self._digests = 0, {}

    def add(self, examples: Sequence[dict[str, Any]]) -> None:
        """Adds examples to the checksum; images and fractions are ignored."""
        self._examples += len(examples)
        for name, first in examples[0].items():
            if isinstance(first, int | np.integer | str):
                values = [example[name] for example in examples]
                digest = self._digests.setdefault(name, hashlib.sha256())
                digest.update(json.dumps(values).encode() if isinstance(first, str) else _bytes(values))

    def value(self) -> dict[str, Any]:
        """The result as JSON: the number of `examples`, and a hexadecimal checksum per feature."""
        return {
            "examples": self._examples,
            **{name: digest.hexdigest() for name, digest in self._digests.items()},
        }


def labels_checksum(*labels: np.ndarray) -> str:
    """Checksum of labels that does not depend on their integer type or byte order.

    For one array it equals the checksum of `Digest` for a feature with these integers.

    Args:
        labels: arrays of int.
    """
    digest = hashlib.sha256()
    for values in labels:
        digest.update(_bytes(values))
    return digest.hexdigest()


def damaged(folder: str | Path, what: str) -> UsageError:
    """The error for a prepared data set that has changed.

    Args:
        folder: the data set's folder.
        what: what is wrong with it.
    """
    return UsageError(
        f"data.dir has a prepared data set in {str(folder)!r} that is damaged ({what}): remove that folder and "
        "start again, which prepares it anew"
    )


def begin(folder: Path) -> None:
    """Writes the checksums of a new set's files; `settle` adds those of its splits.

    Args:
        folder: a set that has just been prepared.

    Raises:
        OSError: they cannot be written.
    """
    _write(folder, {"files": _files(folder), "splits": {}})


def expected(folder: Path, split: str) -> dict[str, Any] | None:
    """The checksum that `Digest` should give for a split; None if none is stored.

    Args:
        folder: the data set's folder.
        split: name of the split.

    Raises:
        UsageError: the checksums cannot be read.
    """
    return (_read(folder) or {"splits": {}})["splits"].get(split)


def has_begun(folder: Path) -> bool:
    """Whether the set was prepared with checksums."""
    return (folder / _NAME).exists()


def settle(folder: Path, split: str, digest: Digest) -> None:
    """Compares a split that has been read whole with its checksums, or stores them if there are none.

    Args:
        folder: the data set's folder.
        split: name of the split.
        digest: checksum of what was read.

    Raises:
        UsageError: the split is not the one that was prepared.
    """
    known, found = _read(folder), digest.value()
    before = known and known["splits"].get(split)
    if before:
        features = sorted(before.keys() | found.keys())
        different = [name for name in features if before.get(name) != found.get(name)]
        if different:
            what = f"{', '.join(different)} of its split {split}: not what was prepared"
            raise damaged(folder, what)
        return
    known = known or {"files": _files(folder), "splits": {}}
    known["splits"][split] = found
    with contextlib.suppress(OSError):  # a read-only folder stays without checksums
        remove_partial_files(folder)
        _write(folder, known)


def check_files(folder: Path) -> None:
    """Checks that a set's files are unchanged: their sizes, and the contents of small files.

    Args:
        folder: the data set's folder.

    Raises:
        UsageError: a file has changed or is missing.
    """
    check_are_files(folder)
    known = _read(folder)
    if known is None:
        return
    found = _files(folder)
    for name, facts in known["files"].items():
        if name not in found:
            raise damaged(folder, f"{name} is missing")
        if found[name] != facts:
            what = "size" if found[name][0] != facts[0] else "contents"
            raise damaged(folder, f"{name}: its {what} not as prepared")


def check_are_files(folder: Path) -> None:
    """Checks that a set has no pipes, which would block for ever, and no broken links.

    Args:
        folder: the data set's folder.

    Raises:
        UsageError: it has one.
    """
    for path in sorted(folder.glob("*")):
        try:
            if not path.is_dir() and not _is_kept(path):
                check_regular(path)
        except OSError as error:
            raise damaged(folder, f"{path.name}: {first_line(error)}") from error


def _files(folder: Path) -> dict[str, list]:
    """Size, and CRC-32 if small, of each file by name; the checksum file itself is left out."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    sizes = {path: path.stat().st_size for path in paths if path.name != _NAME and not _is_kept(path)}
    return {
        path.name: [size, zlib.crc32(path.read_bytes()) if size <= _READ_BYTES else None]
        for path, size in sizes.items()
    }


def _is_kept(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _KEPT)


def _read(folder: Path) -> dict | None:
    """The stored checksums; None if there are none."""
    if not has_begun(folder):
        return None
    try:
        known = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        text = json.dumps({"files": known["files"], "splits": known["splits"]}, sort_keys=True)
        if known["checksum"] != zlib.crc32(text.encode()):
            raise ValueError("it does not match its own checksum")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, f"its {_NAME}: {type(error).__name__}: {error}") from error
    return known


def _write(folder: Path, known: dict) -> None:
    known = {"files": known["files"], "splits": known["splits"]}
    known["checksum"] = zlib.crc32(json.dumps(known, sort_keys=True).encode())
    replace_file(folder / _NAME, json.dumps(known, indent=1) + "\n")


def _bytes(values: Sequence[int] | np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<i8").tobytes()
