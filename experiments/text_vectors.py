"""Makes vectors or tokens of texts: an .npz for the data set `arrays`.

    python -m experiments.text_vectors --train=train.csv --test=test.csv --text=text --label=category \
        --output=VECTORS.npz [--tokens]

The data set `csv` reads texts without such a file (experiments/own_texts.py), and makes them into the same
vectors and tokens (cmwnet_jax/data/texts.py). In the file, `paths` holds the texts themselves, which show the
examples, `ids` the training texts' names if the table has a column `id`, and `words` what the tokens stand for.
"""

import sys
import time

import numpy as np
from absl import flags

from cmwnet_jax import command
from cmwnet_jax.array_files import reading
from cmwnet_jax.data.builders.table_files import read_columns
from cmwnet_jax.data.texts import Tokens, Vectors, empty_rows, no_text, on_one_line, unknown_words
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.files import file_to_write, replace_file


def read_texts(field: str, path: str, names: tuple[str, str]) -> tuple[list[str], list[str], list[str] | None]:
    """Texts, labels and ids of a CSV file, each text on one line; ids are None without a column `id`.

    Args:
        field: the flag, for errors.
        path: the file.
        names: the columns of texts and labels.

    Raises:
        UsageError: it cannot be read, has no row, lacks a column, or has an empty text or label.
    """
    wanted = (*names, "id")
    with reading(path, f"{field} is {path!r}, which cannot be read as CSV", "write it anew") as file:
        if file.suffix.lower() not in (".csv", ".tsv"):
            raise ValueError("its name does not end in .csv or .tsv")
        table, others = read_columns(file, wanted, lambda columns: [name for name in columns if name in wanted])
    missing = [name for name in names if name not in table.column_names]
    if missing or not len(table):
        among = ", ".join([*table.column_names, *others])
        what = f"no column {missing[0]!r} among {among}" if missing else "no row"
        raise UsageError(f"{field} is {path!r}, which has {what}: set --text and --label to columns of it")
    texts, labels = (table[name].to_pylist() for name in names)
    for name, values in zip(names, (texts, labels), strict=True):
        if empty := empty_rows(values):
            raise UsageError(f"{field} is {path!r}, {no_text(name, empty)}")
    ids = table["id"].to_pylist() if "id" in table.column_names else None
    return [on_one_line(text) for text in texts], labels, ids


def main(argv: list[str]) -> None:
    """Reads both files and writes the .npz."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    started = time.perf_counter()
    names = (_TEXT.value, _LABEL.value)
    texts, labels, ids = {}, {}, {}
    for split, flag in (("train", _TRAIN), ("test", _TEST)):
        path = command.required(flag.value, split, "a CSV file")
        texts[split], labels[split], ids[split] = read_texts(f"--{split}", path, names)
    output = file_to_write("--output", command.required(_OUTPUT.value, "output", "an .npz to write"), ".npz")
    make, size = (Tokens, _LENGTH.value) if _TOKENS.value else (Vectors, _COMPONENTS.value)
    with naming_field("--text"):
        encoder = make(texts["train"], size)
    train_x, test_x = (encoder.encode(texts[split]) for split in ("train", "test"))
    arrays = {
        "train_x": train_x,
        "train_y": np.array(labels["train"]),
        "test_x": test_x,
        "test_y": np.array(labels["test"]),
        "paths": np.array(texts["train"]),
        **({"words": np.array(encoder.words)} if encoder.words else {}),
        **({"one_unit": np.array(True)} if encoder.has_one_unit else {}),
        **({"ids": np.array(ids["train"])} if ids["train"] is not None else {}),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, lambda file: np.savez(file, **arrays))
    for split, own in texts.items():
        if note := unknown_words(encoder, own, range(len(own)), f"texts of --{split}"):
            print(f"note: {note}", file=sys.stderr)
    shape = " x ".join(map(str, train_x.shape))
    print(f"written: {output}, {shape} for training ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    _TRAIN = flags.DEFINE_string("train", None, "a CSV file of the training texts")
    _TEST = flags.DEFINE_string("test", None, "a CSV file of the test texts")
    _TEXT = flags.DEFINE_string("text", "text", "name of the column of texts")
    _LABEL = flags.DEFINE_string("label", "label", "name of the column of labels")
    _OUTPUT = flags.DEFINE_string("output", None, "the .npz file to write")
    _COMPONENTS = flags.DEFINE_integer("components", 300, "largest size of a vector", lower_bound=1)
    _TOKENS = flags.DEFINE_bool("tokens", False, "make tokens instead of vectors")
    _LENGTH = flags.DEFINE_integer("length", 64, "most words of a text that become tokens", lower_bound=1)
    command.run(main)
