"""The data set's own names of its examples, and the rows that they have in the prepared files."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmwnet_jax.data import checksums
from cmwnet_jax.data.prepare import TFDS_TEST_SPLITS
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import read_json, replace_file

if TYPE_CHECKING:  # sources imports this module
    from cmwnet_jax.data.sources import Source

_COLUMNS = ("id", "path")


def read_names(source: "Source", split: str) -> dict[str, list[str]]:
    """Reads ids and paths of a split; stored beside the prepared files for the next time.

    Args:
        source: an open data set.
        split: name of the split.

    Returns:
        `id` and `path`, those that the set has, in the order of the prepared files.
    """
    records = source.splits[split].encoded()
    names = _kept(source, split, len(records))
    if names is not None:
        return names
    examples = []
    if any(name in records[0] for name in _COLUMNS):
        for _, batch in records.read():
            examples += [{name: example[name] for name in _COLUMNS if name in example} for example in batch]
    return keep_names(source, split, examples)


def keep_names(source: "Source", split: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Stores ids and paths beside the prepared files, and returns them as `read_names` does.

    Args:
        source: an open data set.
        split: name of the split.
        examples: all its examples, in the order of the prepared files.
    """
    columns = [name for name in _COLUMNS if examples and name in examples[0]]
    names = {name: [example[name] for example in examples] for name in columns}
    if names == _kept(source, split, len(examples)):
        return names
    with contextlib.suppress(OSError):  # a read-only folder only costs time
        replace_file(_file(source, split), json.dumps({"checksum": _checksum(source, split), "names": names}))
    return names


def names_in_memory(source: "Source", split: str) -> dict[str, list[str]]:
    """As `read_names`, in the order in which `sources.load` reads the split into memory.

    tfds's own sets are shuffled when they are prepared; in memory, their ids give the original order.

    Args:
        source: an open data set.
        split: name of the split.
    """
    names = read_names(source, split)
    if source.name not in TFDS_TEST_SPLITS or "id" not in names:
        return names
    order = np.argsort(np.array(names["id"]), kind="stable")
    return {name: [values[row] for row in order] for name, values in names.items()}


def rows_of(source: "Source", split: str, ids: Sequence[str]) -> list[int]:
    """The rows of examples in the prepared files.

    Args:
        source: an open data set, with ids.
        split: name of the split.
        ids: ids of some of its examples.

    Raises:
        UsageError: there is no example of one of these names.
    """
    rows = {name: row for row, name in enumerate(read_names(source, split).get("id", ()))}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise UsageError(
            f"the prepared data set {source.name} has no example {missing[0]!r} in {source.folder}, expected "
            f"the data that the run was trained on: give its raw files back their place, or prepare it anew"
        )
    return [rows[name] for name in ids]


def _file(source: "Source", split: str) -> Path:
    return Path(source.folder) / f"names-{split}.json"


def _checksum(source: "Source", split: str) -> str | None:
    return (checksums.expected(Path(source.folder), split) or {}).get("id")


def _kept(source: "Source", split: str, size: int) -> dict[str, list[str]] | None:
    """The stored copy if it is of these files; None to read the names again."""
    try:
        kept = read_json(_file(source, split))
        names = kept["names"]
        if kept["checksum"] == _checksum(source, split) and all(len(v) == size for v in names.values()):
            return names
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
