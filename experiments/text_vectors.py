"""Makes vectors or tokens of texts: an .npz for the data set `arrays`.

    python -m experiments.text_vectors --train=train.csv --test=test.csv --text=text --label=category \
        --output=VECTORS.npz [--tokens]

The data set `csv` reads texts without such a file (experiments/own_texts.py), and makes them into the same
vectors and tokens (cmwnet_jax/data/texts.py). In the file, `paths` holds the texts themselves, which show the
examples, and `words` what the tokens stand for.
"""

import time

import numpy as np
import pyarrow.csv
from absl import flags

from cmwnet_jax import command
from cmwnet_jax.array_files import reading
from cmwnet_jax.data.texts import Tokens, Vectors, on_one_line
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.files import file_to_write, replace_file


def read_column(field: str, path: str, names: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Texts and labels of a CSV file, each text on one line.

    Args:
        field: the flag, for errors.
        path: the file.
        names: the columns of texts and labels.

    Raises:
        UsageError: it cannot be read, has no row, or lacks a column.
    """
    with reading(path, f"{field} is {path!r}, which cannot be read as CSV", "write it anew") as file:
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
        table = pyarrow.csv.read_csv(file, parse_options=lines, convert_options=types)
    missing = [name for name in names if name not in table.column_names]
    if missing or not len(table):
        what = f"no column {missing[0]!r} among {', '.join(table.column_names)}" if missing else "no row"
        raise UsageError(f"{field} is {path!r}, which has {what}: set --text and --label to columns of it")
    texts, labels = (table[name].to_pylist() for name in names)
    return [on_one_line(text) for text in texts], labels


def main(argv: list[str]) -> None:
    """Reads both files and writes the .npz."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    started = time.perf_counter()
    names = (_TEXT.value, _LABEL.value)
    texts, labels = {}, {}
    for split, flag in (("train", _TRAIN), ("test", _TEST)):
        path = command.required(flag.value, split, "a CSV file")
        texts[split], labels[split] = read_column(f"--{split}", path, names)
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
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, lambda file: np.savez(file, **arrays))
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
