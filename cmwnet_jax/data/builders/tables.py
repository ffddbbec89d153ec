"""What data sets from arrays and from tables share: labels to classes, their checks, and further columns."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data.builders.base import check_classes
from cmwnet_jax.data.builders.contents import Contents, digest
from cmwnet_jax.data.builders.raw_files import raw_error

_NO_LABEL = ("nan", "na", "n/a", "<na>", "null", "none", "?")  # as programs write missing values


class WithColumns(Contents):
    """Contents with further columns: `given_label`, `path`, or other ids.

    If true labels are known besides the given ones, `label` is the true label, as in every other set, and
    `given_label` the one that training sees. In test splits both are the test label.
    """

    def __init__(
        self,
        contents: Contents,
        *,
        given: Mapping[str, np.ndarray] | None = None,
        paths: Mapping[str, Sequence[str]] | None = None,
        ids: Mapping[str, Sequence[str]] | None = None,
        facts: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ):
        """Takes the columns; None leaves one out.

        Args:
            contents: the inputs with their (true) labels.
            given: per split, [N] int in [0, C).
            paths: per split, [N] file names, to show examples by.
            ids: per split, [N] str, instead of the contents' own.
            facts: as in `Contents`.
            notes: as in `Contents`; the contents' own are kept.
        """
        self._contents, self.facts, self._notes = contents, facts or {}, notes
        self.class_names, self.sizes = contents.class_names, contents.sizes
        self.image_feature, self.num_bytes = contents.image_feature, contents.num_bytes
        self.image_files = contents.image_files
        columns = {"given_label": given, "path": paths, "id": ids}
        self._columns = {name: column for name, column in columns.items() if column is not None}
        kinds = {
            "given_label": tfds.features.ClassLabel(names=list(self.class_names)),
            "path": tfds.features.Text(),
        }
        self.more_features = {name: kinds[name] for name in self._columns if name in kinds}
        lines = (
            f"{name} {split} {list(map(str, values))}".encode()
            for name, column in self._columns.items()
            for split, values in column.items()
        )
        self.key = digest([contents.key.encode(), *lines]) if self._columns else contents.key

    @property
    def notes(self) -> list[str]:
        """What the user may not expect, in sentences."""
        return [*self._notes, *self._contents.notes]

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split."""
        for row, example in enumerate(self._contents.examples(split, start, stop), start):
            for name, column in self._columns.items():
                value = column[split][row]
                example[name] = int(value) if name == "given_label" else str(value)
            yield example

    def close(self) -> None:
        """Closes the contents."""
        self._contents.close()


def to_classes(
    training: Mapping[str, np.ndarray],
    testing: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
    root: Path,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts labels to class indices, and checks the classes.

    Text and whole numbers are both possible. Without `class_names`, the classes are the training labels that
    occur, in numerical order if all are numbers, otherwise in alphabetical order. With it, text must be one of
    the names, and whole numbers are indices into them.

    Args:
        training: [N] text or whole numbers by the column's name: the given labels and, if known, the true ones
            last.
        testing: the same for the test splits.
        class_names: C names, or None.
        root: the file, for errors.

    Returns:
        ([N] int32 in [0, C) by column, the C class names).

    Raises:
        UsageError: labels are neither text nor whole numbers, differ in kind, or are of no class; a class of
            a test split has no training example; there are fewer than two classes, or fewer than two training
            examples of one.
    """
    columns = {**training, **testing}
    is_text = _is_text(columns, root)
    if class_names is None:
        values = _in_order({str(value) for column in training.values() for value in np.unique(column)})
    else:
        values = list(class_names) if is_text else [str(c) for c in range(len(class_names))]
    index = {value: c for c, value in enumerate(values)}
    labels = {}
    for name, column in columns.items():
        distinct, places = np.unique(column, return_inverse=True)
        found = np.array([index.get(str(value), -1) for value in distinct], np.int32)
        if (found < 0).any():
            unknown = str(distinct[np.flatnonzero(found < 0)[0]])
            classes = "class_names" if class_names is not None else f"the {len(values)} classes of training"
            folded = {value.strip().lower(): value for value in values}
            nearest = difflib.get_close_matches(unknown.strip().lower(), folded, 1)
            instead = f" (the nearest is {folded[nearest[0]]!r})" if nearest else ""
            raise raw_error(
                root,
                f"where {name} has the label {unknown!r}, which is not among {classes}{instead}: every class "
                f"needs training examples, and one name in all splits",
            )
        labels[name] = found[places.reshape(-1)]
    names = values if class_names is None else list(class_names)
    _check_sizes({name: labels[name] for name in training}, names, root)
    return labels, names


def no_labels(class_names: Sequence[str]) -> list[str]:
    """A sentence about each class whose name may stand for a missing label."""
    return [
        f"the label {name!r} is a class like the others: if it stands for missing labels, take these rows out"
        for name in class_names
        if name.strip().lower() in _NO_LABEL
    ]


def check_ids(ids: Sequence[str], field: str, root: Path) -> None:
    """Raises a UsageError if an id occurs twice or is empty.

    Args:
        ids: [N] str, N at least 1.
        field: name of the ids in the file.
        root: the file.
    """
    distinct, counts = np.unique(np.asarray(ids, dtype=str), return_counts=True)
    if (counts > 1).any() or not distinct[0]:
        what = "an empty id" if not distinct[0] else f"the id {str(distinct[counts > 1][0])!r} more than once"
        raise raw_error(root, f"where {field} has {what}: give every example an id of its own")


def _is_text(columns: Mapping[str, np.ndarray], root: Path) -> bool:
    """Whether the labels are text; raises a UsageError unless all are text, or all whole numbers."""
    kinds = {}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind not in "biuU":
            raise raw_error(
                root,
                f"where {name} is {column.dtype} of shape {column.shape}, expected a list of whole numbers or "
                f"of text: one label per example",
            )
        kinds[name] = "text" if column.dtype.kind == "U" else "whole numbers"
    if len(set(kinds.values())) > 1:
        said = " and ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise raw_error(root, f"where the labels are of two kinds ({said}): use the same in all splits")
    return set(kinds.values()) == {"text"}


def _in_order(names: Iterable[str]) -> list[str]:
    """Names in numerical order if all are whole numbers, otherwise in alphabetical order."""
    names = sorted(names)
    return sorted(names, key=int) if all(re.fullmatch("-?[0-9]+", name) for name in names) else names


def _check_sizes(labels: Mapping[str, np.ndarray], class_names: Sequence[str], root: Path) -> None:
    if len(class_names) < 2:
        raise raw_error(root, f"where all labels are {class_names[0]!r}, expected at least 2 classes")
    last = list(labels)[-1]
    check_classes({last: labels[last]}, class_names, root)
    for name, column in labels.items():
        counts = np.bincount(column, minlength=len(class_names))
        if (counts == 1).any():
            single = class_names[int(np.flatnonzero(counts == 1)[0])]
            raise raw_error(
                root,
                f"where {np.sum(counts == 1)} of {len(class_names)} classes have a single example in {name}, "
                f"the first {single!r}, expected at least 2: merge the class with another or take it out",
            )
