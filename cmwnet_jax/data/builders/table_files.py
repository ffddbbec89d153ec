"""Reads tables, CSV, TSV or Parquet, as columns by split."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from cmwnet_jax.array_files import reading
from cmwnet_jax.data.builders.base import TEST_SPLITS, check_splits
from cmwnet_jax.data.builders.raw_files import raw_error
from cmwnet_jax.errors import UsageError

SPLITS = ("train", *TEST_SPLITS)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (*_DELIMITERS, ".parquet")


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The rows of one split.

    Attributes:
        columns: name -> [N] numbers or truth values, or objects that are text.
        rows: [N] int, the row of each in its file, from 0.
        root: `data.raw_dir`.
        file: the table, `root` or a file in it.
    """

    columns: Mapping[str, np.ndarray]
    rows: np.ndarray
    root: Path
    file: Path

    @property
    def names(self) -> str:
        """The names of the columns, for errors."""
        return _named(self.columns)

    def error(self, what: str) -> UsageError:
        """The error for a table that cannot be used.

        Args:
            what: the rest of the sentence: "which ..." or "where ...".
        """
        return _error(self.root, self.file, what)


def read_parts(root: Path, wanted: str, texts: tuple[str, ...]) -> dict[str, Part]:
    """Reads a table with a column `split`, or a folder with a table per split, e.g. train.csv and test.csv.

    Args:
        root: the table or the folder.
        wanted: the files that the builder wants, for errors.
        texts: columns that hold text even if it looks like numbers.

    Returns:
        Split -> its rows, in their order; `train` first.

    Raises:
        UsageError: a table cannot be read, is empty or has an empty cell; a split is missing or unknown.
    """
    if root.is_dir():
        return _parts_of_folder(root, wanted, texts)
    columns = _read(root, root, wanted, texts)
    if "split" not in columns:
        raise raw_error(root, f"which has {_named(columns)}, and no column 'split': {wanted}")
    split = columns.pop("split")
    found = [str(name) for name in np.unique(split)]
    check_splits(found, root, wanted)
    unknown = [name for name in found if name not in SPLITS]
    if unknown:
        raise raw_error(root, f"where split is {unknown[0]!r} in some rows, expected {', '.join(SPLITS)}")
    parts = {}
    for name in (name for name in SPLITS if name in found):
        rows = np.flatnonzero(split == name)
        parts[name] = Part({column: values[rows] for column, values in columns.items()}, rows, root, root)
    return parts


def _parts_of_folder(root: Path, wanted: str, texts: tuple[str, ...]) -> dict[str, Part]:
    files = {
        split: [path for suffix in _SUFFIXES if (path := root / f"{split}{suffix}").is_file()]
        for split in SPLITS
    }
    files = {split: paths for split, paths in files.items() if paths}
    check_splits(list(files), root, wanted)
    parts = {}
    for split, (path, *more) in files.items():
        if more:
            raise raw_error(root, f"which has both {path.name} and {more[0].name}: take one of them out")
        columns = _read(root, path, wanted, texts)
        if "split" in columns:
            raise _error(root, path, "which has a column 'split', as the file's name says it: take it out")
        parts[split] = Part(columns, np.arange(len(next(iter(columns.values())))), root, path)
    return parts


def _read(root: Path, path: Path, wanted: str, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns of one table by name."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise raw_error(root, f"which is no table: {wanted}")
    problem = f"data.raw_dir is {str(path)!r}, which cannot be read as a table"
    with reading(path, problem, "write it anew") as path, path.open("rb") as file:
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(file)
        else:
            parse = pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[suffix], newlines_in_values=True)
            convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(texts, pyarrow.string()))
            table = pyarrow.csv.read_csv(file, parse_options=parse, convert_options=convert)
    names = table.column_names
    if len(set(names)) < len(names) or not len(table):
        what = "has no row" if not len(table) else f"has the column {max(names, key=names.count)!r} twice"
        raise _error(root, path, f"which {what}: {wanted}")
    return {name: _values(root, path, name, table[name]) for name in names}


def _values(root: Path, path: Path, name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    """[N] numbers or truth values, or objects that are text; raises a UsageError for empty cells."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise _error(root, path, no_value(name, row))
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if types.is_boolean(column.type) or types.is_integer(column.type) or types.is_floating(column.type):
        return column.to_numpy()
    raise _error(
        root, path, f"where the column {name!r} is {column.type}, expected numbers or text: convert it"
    )


def no_value(name: str, row: int) -> str:
    """The end of the error for an empty cell.

    Args:
        name: the column.
        row: the row in the file, from 0.
    """
    return f"where the column {name!r} has no value in row {row + 1}: fill it in or take the row out"


def _named(columns: Collection[str]) -> str:
    most = 10
    return ", ".join([*list(columns)[:most], *(["and others"] if len(columns) > most else [])])


def _error(root: Path, path: Path, what: str) -> UsageError:
    return raw_error(root, what if path == root else f"with the table {path.name!r}, {what}")
