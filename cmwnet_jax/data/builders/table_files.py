"""Reads tables, CSV, TSV or Parquet, as columns by split."""

import codecs
import dataclasses
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from cmwnet_jax.array_files import reading
from cmwnet_jax.data.builders.base import TEST_SPLITS, check_splits
from cmwnet_jax.data.builders.raw_files import held, raw_error
from cmwnet_jax.errors import UsageError

SPLITS = ("train", *TEST_SPLITS)
_SPLITS_NAMED = 5
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SIGNS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_SUFFIXES = (*_DELIMITERS, ".parquet")
_BLOCK_BYTES = 1 << 26  # of a text read at a time; no row may be longer

_BLOCKS = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Names of all columns -> those to read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The rows of one split.

    Attributes:
        columns: name -> [N] numbers or truth values, or objects that are text, of the columns that were read.
        ignored: names of the other columns.
        rows: [N] int, the row of each in its file, from 0.
        root: `data.raw_dir`.
        file: the table, `root` or a file in it.
    """

    columns: Mapping[str, np.ndarray]
    ignored: tuple[str, ...]
    rows: np.ndarray
    root: Path
    file: Path

    @property
    def names(self) -> str:
        """The names of the columns, for errors."""
        return _named([*self.columns, *self.ignored])

    def error(self, what: str) -> UsageError:
        """The error for a table that cannot be used.

        Args:
            what: the rest of the sentence: "which ..." or "where ...".
        """
        return _error(self.root, self.file, what)


def read_parts(root: Path, wanted: str, texts: tuple[str, ...], choose: Choose) -> dict[str, Part]:
    """Reads a table with a column `split`, or a folder with a table per split, e.g. train.csv and test.csv.

    Args:
        root: the table or the folder.
        wanted: the files that the builder wants, for errors.
        texts: columns that hold text even if it looks like numbers.
        choose: which columns of a table are read, and may then have no empty cell.

    Returns:
        Split -> its rows, in their order; `train` first.

    Raises:
        UsageError: a table cannot be read, is empty or has an empty cell; a split is missing or unknown.
    """
    if root.is_dir():
        return _parts_of_folder(root, wanted, texts, choose)
    columns, ignored = _read(root, root, wanted, texts, choose)
    if "split" not in columns:
        raise raw_error(root, f"which has {_named([*columns, *ignored])}, and no column 'split': {wanted}")
    split = columns.pop("split")
    found = [str(name) for name in np.unique(split)]
    check_splits(found, root, wanted, f"split is {', '.join(map(repr, found[:_SPLITS_NAMED]))}")
    unknown = [name for name in found if name not in SPLITS]
    if unknown:
        raise raw_error(root, f"where split is {unknown[0]!r} in some rows, expected {', '.join(SPLITS)}")
    parts = {}
    for name in (name for name in SPLITS if name in found):
        rows = np.flatnonzero(split == name)
        own = {column: values[rows] for column, values in columns.items()}
        parts[name] = Part(own, ignored, rows, root, root)
    return parts


def _parts_of_folder(root: Path, wanted: str, texts: tuple[str, ...], choose: Choose) -> dict[str, Part]:
    files = {
        split: [path for suffix in _SUFFIXES if (path := root / f"{split}{suffix}").is_file()]
        for split in SPLITS
    }
    files = {split: paths for split, paths in files.items() if paths}
    check_splits(list(files), root, wanted, held(os.listdir(root)))
    parts = {}
    for split, (path, *more) in files.items():
        if more:
            raise raw_error(root, f"which has both {path.name} and {more[0].name}: take one of them out")
        columns, ignored = _read(root, path, wanted, texts, choose)
        if "split" in columns:
            raise _error(root, path, "which has a column 'split', as the file's name says it: take it out")
        rows = np.arange(len(next(iter(columns.values()), ())))
        parts[split] = Part(columns, ignored, rows, root, path)
    return parts


def _read(
    root: Path, path: Path, wanted: str, texts: tuple[str, ...], choose: Choose
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The chosen columns of one table by name, and the names of the others."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise raw_error(root, f"which is no table: {wanted}")
    problem = f"data.raw_dir is {str(path)!r}, which cannot be read as a table"
    remedy = "write it anew"
    if suffix in _DELIMITERS:
        remedy += f", as UTF-8 with {_SIGNS[_DELIMITERS[suffix]]} between the cells"
    with reading(path, problem, remedy) as path:
        table, ignored = read_columns(path, texts, choose)
    if not len(table):
        raise _error(root, path, "which has no row: write the examples into it")
    return {name: _values(root, path, name, table[name]) for name in table.column_names}, ignored


def read_columns(path: Path, texts: Collection[str], choose: Choose) -> tuple[pyarrow.Table, tuple[str, ...]]:
    """Reads some columns of a table; what the others hold does not matter.

    Args:
        path: a .csv, .tsv or .parquet file.
        texts: columns that hold text even if it looks like numbers.
        choose: the columns to read.

    Returns:
        (the chosen columns, the names of the others).

    Raises:
        ValueError: two columns have one name; other errors: the file cannot be read.
    """
    suffix = path.suffix.lower()
    names = _column_names(path, suffix)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the column {twice[0]!r} is there twice, and each needs a name of its own")
    chosen = list(choose(names))
    with path.open("rb") as file:
        if suffix == ".parquet":
            table = pyarrow.parquet.ParquetFile(file).read(chosen)
        else:
            types = dict.fromkeys(texts, pyarrow.string())
            convert = pyarrow.csv.ConvertOptions(column_types=types, include_columns=chosen)
            table = pyarrow.csv.read_csv(file, _BLOCKS, _layout(suffix), convert)
    return table.select(chosen), tuple(name for name in names if name not in chosen)


def _column_names(path: Path, suffix: str) -> list[str]:
    """The names in a table's first line, or in its schema."""
    with path.open("rb") as file:
        if suffix == ".parquet":
            return pyarrow.parquet.read_schema(file).names
        _check_signs(file.readline(_BLOCK_BYTES), _DELIMITERS[suffix])
        file.seek(0)
        with pyarrow.csv.open_csv(file, _BLOCKS, _layout(suffix)) as reader:
            return reader.schema.names


def _check_signs(first_line: bytes, delimiter: str) -> None:
    """Raises a ValueError for what spreadsheets may write instead: UTF-16, or other signs between the cells."""
    if first_line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16")
    others = [sign for sign in _SIGNS if sign.encode() in first_line]
    if others and delimiter not in others:
        raise ValueError(f"its first line has {_SIGNS[others[0]]} between the names of the columns")


def _layout(suffix: str) -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[suffix], newlines_in_values=True)


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
