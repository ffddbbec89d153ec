"""A table with a row per example: CSV, TSV or Parquet, of numbers, of texts or of paths to images."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cmwnet_jax.data import kinds
from cmwnet_jax.data.builders import tables
from cmwnet_jax.data.builders.base import LocalBuilder
from cmwnet_jax.data.builders.contents import Contents, ImageFile, ImageFiles, InMemory, Texts, digest
from cmwnet_jax.data.builders.table_files import Part, no_value, read_parts
from cmwnet_jax.data.texts import empty_rows, no_text, on_one_line

Labels = Mapping[str, np.ndarray]
"""Split -> [N] int32 in [0, C)."""

SPECIAL = ("true_label", "split", "id", "path", "text")
"""Columns with a meaning, besides that of labels."""

_ROW_NUMBERS = re.compile(r"\s*|index|Unnamed: \d+|__index_level_\d+__")


class Csv(LocalBuilder):
    """A .csv, .tsv or .parquet file with a column `split`, or a folder with such a file per split.

    The splits are train, and test, val or validation. The labels' column, `label` or another name, holds whole
    numbers or text. Inputs are either images (the column `path`, relative to the table's folder, read in RGB),
    or texts (the column `text`, made into vectors or tokens), or all other columns, numbers that make a vector.
    Optional: `true_label`, the true label if some labels are wrong (test examples are compared with it, too,
    where they have one; in CSV and TSV, an empty cell says that they have none), and `id` (otherwise the row's
    number in its file, or the path). A text shows its example, as a path does. Further columns beside paths or
    texts are not read, which a note says.
    """

    WANTS = (
        "a .csv, .tsv or .parquet file with a column split (train, and test, val or validation), or a folder "
        "with train.csv, test.csv and the like, with the columns label (or data.label_column), and either path "
        "(of an image), text or numbers, and optionally true_label and id"
    )
    OPTIONS = ("label_column", "texts")

    @classmethod
    def scan(cls, root: Path, label_column: str = "label", texts: str = kinds.VECTORS) -> Contents:
        """Reads and checks the table or tables.

        Args:
            root: the path of the table, or of the folder.
            label_column: name of the labels' column.
            texts: a name in `data.texts.ENCODERS`: what texts are made into.

        Raises:
            UsageError: a table cannot be read, a column is missing, or a value in it cannot be used.
        """
        special = (label_column, *SPECIAL)
        parts = read_parts(root, cls.wanted(), special, lambda names: _read_of(names, special))
        for part in parts.values():
            if label_column not in part.columns:
                raise part.error(
                    f"which has {part.names}, and no column {label_column!r}: set --config.data.label_column "
                    f"to the column of labels"
                )
        given, true, class_names = _labels(parts, label_column, root)
        ids = _names(parts, "id") or _names(parts, "path")
        labels, shown = given if true is None else true, None
        for part in parts.values():
            if {"path", "text"} <= {*part.columns}:
                raise part.error(
                    "which has a column 'path' and one 'text', expected images or texts: rename one of them"
                )
        if "path" in parts["train"].columns:
            shown = _texts(parts, "path")
            contents = _images(parts, shown, labels, class_names, root)
        elif "text" in parts["train"].columns:
            shown = _texts_to_read(parts)
            rows = {split: part.rows for split, part in parts.items()}
            contents = Texts(shown, labels, class_names, texts, ids=rows)
        else:
            others = {
                split: [name for name in part.columns if name not in special] for split, part in parts.items()
            }
            contents = _vectors(parts, labels, class_names, others)
        return tables.WithColumns(
            contents,
            given=None if true is None else given,
            paths=shown,
            ids=ids,
            facts=contents.facts,
            notes=[*tables.no_labels(class_names), *_left_out(parts)],
        )


def class_counts(root: Path, label_column: str) -> np.ndarray:
    """The number of training examples of each class, from the labels' column alone.

    Args:
        root: the path of the table, or of the folder.
        label_column: name of the labels' column.

    Returns:
        [C] int.

    Raises:
        UsageError: a table cannot be read or lacks the column; `Csv.scan` finds more.
    """
    read = (label_column, "split")
    part = read_parts(root, Csv.wanted(), read, lambda names: [name for name in names if name in read])["train"]
    if label_column not in part.columns:
        raise part.error(f"which has {part.names}, and no column {label_column!r}")
    return np.unique(part.columns[label_column], return_counts=True)[1]


def _read_of(names: Sequence[str], special: Sequence[str]) -> Sequence[str]:
    """The columns that are read: beside paths or texts those with a meaning, otherwise all."""
    return [name for name in names if name in special] if {"path", "text"} & {*names} else names


def _left_out(parts: Mapping[str, Part]) -> list[str]:
    """A sentence about the columns that are not read, if there are any."""
    names = list(dict.fromkeys(name for part in parts.values() for name in part.ignored))
    if not names:
        return []
    what = (
        f"the column {names[0]!r} is" if len(names) == 1 else f"the columns {', '.join(map(repr, names))} are"
    )
    hint = "" if "id" in parts["train"].columns else " (names of the examples would be in a column 'id')"
    return [f"{what} not read{hint}"]


def _labels(
    parts: Mapping[str, Part], label_column: str, root: Path
) -> tuple[Labels, Labels | None, list[str]]:
    """Given labels, true labels (None if these are all that is known), and the C class names."""
    columns = {split: _of_label(part, label_column) for split, part in parts.items()}
    columns |= {split: _true_where_known(parts[split], columns[split]) for split in parts if split != "train"}
    fields = {split: f"{label_column} of {split}" for split in parts}
    training, true = {fields["train"]: columns["train"]}, "true_label of train"
    if "true_label" in parts["train"].columns:
        training[true] = _of_label(parts["train"], "true_label")
    testing = {fields[split]: column for split, column in columns.items() if split != "train"}
    labels, class_names = tables.to_classes(training, testing, None, root)
    given = {split: labels[field] for split, field in fields.items()}
    return given, (given | {"train": labels[true]} if true in training else None), class_names


def _true_where_known(part: Part, labels: np.ndarray) -> np.ndarray:
    """The true labels of test rows; the others keep theirs."""
    true = part.columns.get("true_label", labels)
    if true.dtype != object:
        return true
    blank = np.array([not text.strip() for text in true])
    return np.where(blank, labels, true).astype(str)


def _of_label(part: Part, name: str) -> np.ndarray:
    values = part.columns[name]
    if values.dtype != object:
        return values
    blank = [row for row, text in zip(part.rows, values, strict=True) if not text.strip()]
    if blank:
        raise part.error(no_value(name, blank[0]))
    return values.astype(str)


def _names(parts: Mapping[str, Part], field: str) -> dict[str, list[str]] | None:
    """The ids in a column, checked; None if the training examples have no such column."""
    if field not in parts["train"].columns:
        return None
    named = _texts(parts, field)
    for split, ids in named.items():
        tables.check_ids(ids, f"{field} of {split}", parts[split].root)
    return named


def _texts(parts: Mapping[str, Part], name: str) -> dict[str, list[str]]:
    missing = [part for part in parts.values() if name not in part.columns]
    if missing:
        raise missing[0].error(f"which has no column {name!r}, as the training examples have: add it")
    return {split: [str(value) for value in part.columns[name]] for split, part in parts.items()}


def _texts_to_read(parts: Mapping[str, Part]) -> dict[str, list[str]]:
    """The texts, each on one line; raises a UsageError if some are empty."""
    texts = _texts(parts, "text")
    for split, part in parts.items():
        empty = empty_rows(texts[split])
        if empty:
            raise part.error(no_text("text", [int(part.rows[place]) for place in empty]))
    return {split: list(map(on_one_line, own)) for split, own in texts.items()}


def _vectors(
    parts: Mapping[str, Part], labels: Labels, class_names: list[str], others: Mapping[str, Sequence[str]]
) -> InMemory:
    names = others["train"]
    if not names:
        raise parts["train"].error("which has neither a column path or text nor any of numbers: add one")
    for split, part in parts.items():
        if set(others[split]) != set(names):
            odd = min(set(others[split]) ^ set(names))
            which = "no" if odd in names else "a"
            raise part.error(f"which has {which} column {odd!r}, unlike the training examples: make both alike")
    _check_inputs(parts["train"], names)
    inputs = {split: _numbers(part, names) for split, part in parts.items()}
    splits = {split: (x, labels[split]) for split, x in inputs.items()}
    content = [str((names, class_names)).encode()]
    rows = {split: part.rows for split, part in parts.items()}
    content += [array.tobytes() for split in parts for array in (*splits[split], rows[split])]
    contents = InMemory(splits, class_names, key=digest(content), ids=rows)
    contents.notes = kinds.rounding_notes((name, parts["train"].columns[name]) for name in names)
    return contents


def _check_inputs(part: Part, names: Sequence[str]) -> None:
    """Raises a UsageError for columns that are hardly meant as inputs; some would give the labels away."""
    for name in names:
        if _ROW_NUMBERS.fullmatch(name):
            raise part.error(
                f"where the column {name!r} would be an input, although it is named as pandas names the "
                f"numbers of rows: write the table with index=False, or rename the column"
            )
        meant = name.strip().lower()
        if meant in ("label", *SPECIAL):
            raise part.error(
                f"where the column {name!r} would be an input, although {meant!r} is a name with a meaning "
                f"here: take it out or rename it"
            )


def _numbers(part: Part, names: Sequence[str]) -> np.ndarray:
    """[N, d] float32."""
    for name in names:
        if part.columns[name].dtype == object:
            raise part.error(
                f"where the column {name!r} is text, first {part.columns[name][0][:40]!r}, expected numbers: "
                f"convert it or take it out; texts to learn from are a column 'text'"
            )
    with np.errstate(over="ignore"):
        x = np.stack([part.columns[name].astype(np.float32) for name in names], axis=1)
    if not np.isfinite(x).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(x))[0])
        raise part.error(
            f"where the column {names[column]!r} has {part.columns[names[column]][row]} in row "
            f"{part.rows[row] + 1}, expected finite numbers in the range of float32: correct it or take the "
            f"row out"
        )
    return x


class _ListedFiles:
    """The files that a table names, read as `RawFiles` are."""

    def __init__(self, root: Path, parts: Mapping[str, Part], paths: Mapping[str, Sequence[str]]):
        self.root, self._folder = root, root if root.is_dir() else root.parent
        self.sizes, missing = {}, []
        for split, own in paths.items():
            for path in own:
                try:
                    self.sizes[path] = os.stat(self._folder / path).st_size
                except OSError:
                    missing.append(path)
            if missing:
                raise parts[split].error(
                    f"where {len(missing)} of {len(own)} paths of {split} name no file, the first "
                    f"{missing[0]!r}: paths start at the table's folder, {str(self._folder)!r}"
                )

    def read(self, path: str) -> bytes:
        return (self._folder / path).read_bytes()

    def close(self) -> None:
        pass


def _images(
    parts: Mapping[str, Part],
    paths: Mapping[str, Sequence[str]],
    labels: Labels,
    class_names: list[str],
    root: Path,
) -> ImageFiles:
    splits = {
        split: [ImageFile(path, int(label)) for path, label in zip(own, labels[split], strict=True)]
        for split, own in paths.items()
    }
    return ImageFiles(_ListedFiles(root, parts, paths), splits, class_names)
