"""A table with a row per example: CSV, TSV or Parquet, of numbers or of paths to images."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from cmwnet_jax.array_files import reading
from cmwnet_jax.data.builders import tables
from cmwnet_jax.data.builders.base import TEST_SPLITS, LocalBuilder, check_splits
from cmwnet_jax.data.builders.contents import Contents, ImageFile, ImageFiles, InMemory, digest
from cmwnet_jax.data.builders.raw_files import raw_error

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SPECIAL = ("label", "true_label", "split", "id", "path")


class Csv(LocalBuilder):
    """A .csv, .tsv or .parquet file with the columns `label` and `split` (train, and test, val or validation).

    Either `path` names an image, relative to the file's folder, which is read in RGB; or all other columns hold
    numbers, which make a vector. `label` holds whole numbers or text. Optional: `true_label`, the true label of
    training examples if some of `label` are wrong, and `id` (otherwise the row's number, or the path).
    """

    WANTS = (
        "a .csv, .tsv or .parquet file with the columns label, split (train, and test, val or validation), and "
        "either path (of an image) or numbers, and optionally true_label and id"
    )

    @classmethod
    def scan(cls, root: Path) -> Contents:
        """Reads and checks the table.

        Args:
            root: its path.

        Raises:
            UsageError: it cannot be read, a column is missing, or a value in it cannot be used.
        """
        columns = _read(root, cls.wanted())
        for name in ("label", "split"):
            if name not in columns:
                raise raw_error(root, f"which has no column {name!r}: {cls.wanted()}")
        rows = _rows_by_split(columns["split"], root, cls.wanted())
        training = {"label of train": columns["label"][rows["train"]]}
        if "true_label" in columns:
            training["true_label of train"] = columns["true_label"][rows["train"]]
        testing = {f"label of {split}": columns["label"][rows[split]] for split in rows if split != "train"}
        labels, class_names = tables.to_classes(training, testing, None, root)
        given = {split: labels[f"label of {split}"] for split in rows}
        true = given | ({"train": labels["true_label of train"]} if "true_label" in columns else {})
        ids = None
        for field in ("id", "path"):
            if field in columns:
                named = {split: [str(value) for value in columns[field][rows[split]]] for split in rows}
                for split, found in named.items():
                    tables.check_ids(found, f"{field} of {split}", root)
                ids = ids or named
        if "path" in columns:
            contents = _images(columns, rows, true, class_names, root)
        else:
            contents = _vectors(columns, rows, true, class_names, root)
        return tables.WithColumns(
            contents,
            given=given if "true_label" in columns else None,
            paths={split: columns["path"][rows[split]] for split in rows} if "path" in columns else None,
            ids=ids,
        )


def _read(root: Path, wanted: str) -> dict[str, np.ndarray]:
    """The columns by name, numbers or text."""
    problem = f"data.raw_dir is {str(root)!r}, which cannot be read as a table"
    suffix = root.suffix.lower()
    if suffix not in (*_DELIMITERS, ".parquet"):
        raise raw_error(root, f"which is no table: {wanted}")
    with reading(root, problem, "write it anew") as path, path.open("rb") as file:
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(file)
        else:
            options = pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[suffix], newlines_in_values=True)
            table = pyarrow.csv.read_csv(file, parse_options=options)
    names = table.column_names
    if len(set(names)) < len(names) or not len(table):
        what = "has no row" if not len(table) else f"has the column {max(names, key=names.count)!r} twice"
        raise raw_error(root, f"which {what}: {wanted}")
    return {name: _values(name, table[name], root) for name in names}


def _values(name: str, column: pyarrow.ChunkedArray, root: Path) -> np.ndarray:
    """[N] numbers, truth values or text; raises a UsageError for empty cells and other types."""
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise raw_error(
            root, f"where the column {name!r} has no value in row {row + 1}: fill it in or take the row out"
        )
    kinds = pyarrow.types
    if kinds.is_string(column.type) or kinds.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=str)
    if kinds.is_boolean(column.type) or kinds.is_integer(column.type) or kinds.is_floating(column.type):
        return column.to_numpy()
    raise raw_error(root, f"where the column {name!r} is {column.type}, expected numbers or text: convert it")


def _rows_by_split(split: np.ndarray, root: Path, wanted: str) -> dict[str, np.ndarray]:
    """Split -> ascending rows."""
    found = [str(name) for name in np.unique(split)]
    check_splits(found, root, wanted)
    unknown = [name for name in found if name not in ("train", *TEST_SPLITS)]
    if unknown:
        raise raw_error(
            root, f"where split is {unknown[0]!r} in some rows, expected train, {', '.join(TEST_SPLITS)}"
        )
    return {name: np.flatnonzero(split == name) for name in ("train", *TEST_SPLITS) if name in found}


def _vectors(
    columns: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    class_names: list[str],
    root: Path,
) -> InMemory:
    names = [name for name in columns if name not in _SPECIAL]
    if not names:
        raise raw_error(root, "which has neither a column path nor any column of numbers: add one")
    for name in names:
        if columns[name].dtype.kind == "U":
            raise raw_error(
                root,
                f"where the column {name!r} is text, first {str(columns[name][0])[:40]!r}, expected numbers: "
                f"convert it or take it out",
            )
    with np.errstate(over="ignore"):
        x = np.stack([columns[name].astype(np.float32) for name in names], axis=1)
    if not np.isfinite(x).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(x))[0])
        raise raw_error(
            root,
            f"where the column {names[column]!r} has {columns[names[column]][row]} in row {row + 1}, expected "
            f"finite numbers in the range of float32: correct it or take the row out",
        )
    splits = {split: (x[own], labels[split]) for split, own in rows.items()}
    parts = [str((names, class_names)).encode()]
    parts += [part.tobytes() for split in splits.values() for part in split]
    return InMemory(splits, class_names, key=digest(parts), ids=rows)


class _ListedFiles:
    """The files that a table names, read as `RawFiles` are."""

    def __init__(self, root: Path, paths: list[str]):
        self.root, self.sizes, missing = root, {}, []
        for path in paths:
            try:
                self.sizes[path] = os.stat(root.parent / path).st_size
            except OSError:
                missing.append(path)
        if missing:
            raise raw_error(
                root,
                f"where {len(missing)} of {len(paths)} paths name no file, the first {missing[0]!r}: paths "
                f"start at the table's folder, {str(root.parent)!r}",
            )

    def read(self, path: str) -> bytes:
        return (self.root.parent / path).read_bytes()

    def close(self) -> None:
        pass


def _images(
    columns: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    class_names: list[str],
    root: Path,
) -> ImageFiles:
    more = [name for name in columns if name not in _SPECIAL]
    if more:
        raise raw_error(
            root, f"which has the column {more[0]!r} besides path, expected images alone: take it out"
        )
    paths = [str(path) for path in columns["path"]]
    files = _ListedFiles(root, paths)
    splits = {
        split: [ImageFile(paths[row], int(label)) for row, label in zip(own, labels[split], strict=True)]
        for split, own in rows.items()
    }
    return ImageFiles(files, splits, class_names)
