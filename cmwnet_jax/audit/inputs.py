"""Reads the inputs of single training examples from the data set that a run was trained on."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cmwnet_jax.audit.examples import Examples
from cmwnet_jax.data import sources
from cmwnet_jax.data.example_names import rows_of
from cmwnet_jax.data.prepare import options_of
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import hashes_differ
from cmwnet_jax.runs.arrays import read_arrays

_NUMBERS = 24  # shown of a vector, or of tokens whose words are not known


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs to show of some examples.

    Attributes:
        images: row -> [height, width, 1 or 3] uint8, for images.
        texts: row -> text, for anything else.
    """

    images: Mapping[int, np.ndarray]
    texts: Mapping[int, str]


def read_inputs(examples: Examples, rows: Sequence[int]) -> Inputs:
    """Reads some training examples from the prepared data set.

    Args:
        examples: the examples; their first run's config and names say which data set and which order.
        rows: rows of the training split.

    Raises:
        UsageError: the data set cannot be opened, or is not the one that the run was trained on.
    """
    fields = examples.config["data"]
    options = options_of(fields)
    source = sources.open(fields["name"], fields.get("dir", ""), fields.get("raw_dir", ""), options=options)
    if hashes_differ(examples.files, source.files):
        raise UsageError(
            f"the files of the data set {source.name} are not those that the run was trained on: bring them "
            f"back"
        )
    if source.class_names != examples.class_names:
        raise UsageError(f"the prepared data set {source.name} has other classes than the run: prepare it anew")
    foreign = _foreign(examples)
    rows = [int(row) for row in rows if int(row) not in foreign]
    names = dict(zip(examples.table["row"].tolist(), examples.table["id"].tolist(), strict=True))
    has_names = examples.table["id"].dtype.kind == "U"
    places = rows_of(source, "train", [names[row] for row in rows]) if has_names else rows
    found = source.train.__getitems__(places) if places else []
    texts = {row: f"an image of another data set ({number})" for row, number in foreign.items()}
    images = {}
    for row, example in zip(rows, found, strict=True):
        shown = example["image"]
        if shown.dtype == np.uint8 and shown.ndim == 3:
            images[row] = shown
        else:
            texts[row] = _text(shown, source.words)
    return Inputs(images, texts)


def _foreign(examples: Examples) -> dict[int, int]:
    """Row -> row of another data set, whose image the run has seen instead."""
    arrays = read_arrays(examples.runs[0], "bias")
    if "foreign" not in arrays:
        return {}
    shown = arrays["foreign"] >= 0
    return dict(zip(arrays["ids"][shown].tolist(), arrays["foreign"][shown].tolist(), strict=True))


def _text(values: np.ndarray, words: Sequence[str]) -> str:
    """The words of tokens if these are known, else the numbers."""
    numbers = values.ravel()
    if numbers.dtype.kind in "iu":
        numbers = numbers[: np.max(np.flatnonzero(numbers), initial=0) + 1]  # without padding
        if words:
            return " ".join(words[number] for number in numbers)
    texts = [f"{number:.4g}" if numbers.dtype.kind == "f" else str(number) for number in numbers[:_NUMBERS]]
    return "  ".join(texts) + ("  …" if len(numbers) > _NUMBERS else "")
