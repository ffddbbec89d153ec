"""Writes the results of an audit as files for other programs."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmwnet_jax.audit.examples import Examples, Table
from cmwnet_jax.audit.suspects import COLUMNS, filled_weights
from cmwnet_jax.files import replace_file
from cmwnet_jax.runs.arrays import map_probabilities

_PART_NUMBERS = 1 << 22  # probabilities read at a time
_DIGITS = ".6g"
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With what spreadsheets begin a formula (OWASP, CSV injection)."""


def write_suspects(path: Path, ranked: Table, top: int) -> None:
    """Writes suspects.csv: the first rows of the table, with the columns of `find_suspects`.

    Texts are written as `as_text` makes them, since people open this file in spreadsheets.

    Args:
        path: the file.
        ranked: from `rank_examples`.
        top: the number of rows.
    """
    first = {name: ranked[name][:top] for name in COLUMNS}
    texts = {
        name: [as_text(text) for text in column.tolist()] for name, column in first.items() if _is_text(column)
    }
    write_csv(path, {**first, **{name: np.array(column, object) for name, column in texts.items()}})


def as_text(text: str) -> str:
    """The text with a `'` before it if a spreadsheet would take it for a formula; numbers stay as they are.

    Example:
        >>> as_text("=1+1"), as_text("-5"), as_text("a=b"), from_text(as_text("=1+1"))
        ("'=1+1", '-5', 'a=b', '=1+1')
    """
    return f"'{text}" if _looks_like_formula(text) else text


def from_text(written: str) -> str:
    """The text of which `as_text` has made what suspects.csv holds, e.g. an example's id."""
    return written[1:] if written[:1] == "'" and _looks_like_formula(written[1:]) else written


def _looks_like_formula(text: str) -> bool:
    """Also of a text that `as_text` might have written: so every text comes back."""
    bare = text.lstrip("'")
    if not bare.startswith(_FORMULAS):
        return False
    return text != bare or not re.fullmatch(r"[+-]?\d+(\.\d*)?", text)


def _is_text(column: np.ndarray) -> bool:
    return column.dtype.kind in "UO"


def write_examples(path: Path, ranked: Table) -> None:
    """Writes examples.parquet: all examples with all columns, in the order of the runs.

    Args:
        path: the file.
        ranked: from `rank_examples`.
    """
    order = np.argsort(ranked["row"], kind="stable")
    table = pa.table({name: pa.array(column[order]) for name, column in ranked.items()})
    replace_file(path, lambda file: pq.write_table(table, file))


def write_weights(path: Path, examples: Examples, wrong_probability: np.ndarray) -> str:
    """Writes sample_weight.csv: id and weight of every example, in the order of the runs.

    Args:
        path: the file.
        examples: the examples.
        wrong_probability: [N], in their order; gives the weights where the runs learned none.

    Returns:
        What the weights are, in words.
    """
    learned = "weight" in examples.table
    weights = filled_weights(examples.table) if learned else 1 - wrong_probability
    write_csv(path, {"id": examples.table["id"], "sample_weight": weights})
    return "the weights learned by the runs" if learned else "1 - the probability that the label is wrong"


def write_probabilities(folder: Path, examples: Examples) -> bool:
    """Writes pred_probs.npy, [N, C] float32, and pred_probs_rows.csv, for cleanlab.

    They are of classifiers that were trained on these labels. Where wrong ones have been memorised, they look
    right to cleanlab, which asks for probabilities of classifiers that have not seen the example.

    Each row sums to one; several runs are averaged. Line i of the CSV has the `id` of row i and its `label`,
    the given class's column.

    Args:
        folder: where to write.
        examples: the examples, with N rows and C classes.

    Returns:
        Whether all runs have left probabilities; otherwise nothing is written.

    Raises:
        UsageError: the probabilities of a run are damaged.
    """
    shape = (len(examples), len(examples.class_names))
    stored = [map_probabilities(run, shape) for run in examples.runs]
    if any(part is None for part in stored):
        return False
    rows = max(1, _PART_NUMBERS // shape[1])

    def write(file):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, shape[0], rows):
            part = np.mean([run[first : first + rows].astype(np.float32) for run in stored], axis=0)
            file.write((part / part.sum(axis=1, keepdims=True)).tobytes())

    replace_file(folder / "pred_probs.npy", write)
    columns = {"id": examples.table["id"], "label": examples.table["given"]}
    write_csv(folder / "pred_probs_rows.csv", columns)
    return True


def write_csv(path: Path, table: Mapping[str, np.ndarray]) -> None:
    """Writes columns as a CSV file; floats have six digits.

    Args:
        path: the file.
        table: columns by name.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*(_texts(column) for column in table.values()), strict=True))
    replace_file(path, text.getvalue().encode(errors="backslashreplace"))


def _texts(column: np.ndarray) -> Sequence:
    values = column.tolist()
    return [format(value, _DIGITS) for value in values] if column.dtype.kind == "f" else values


def write_summary(path: Path, summary: Mapping) -> None:
    """Writes summary.json.

    Args:
        path: the file.
        summary: numbers, strings, lists and dictionaries of these.
    """
    replace_file(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
