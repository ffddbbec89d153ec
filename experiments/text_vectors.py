"""Makes vectors or tokens of texts: an .npz for the data set `arrays`.

    python -m experiments.text_vectors --train=train.csv --test=test.csv --text=text --label=category \
        --output=VECTORS.npz [--tokens]

Vectors: TF-IDF of words and pairs of words that occur in at least two training texts, with 1 + log(count),
projected on the directions of largest singular values (latent semantic analysis). Tokens: the numbers of the
words, 1 for words that occur in fewer than two training texts, 0 for padding; texts are cut at --length words.
Both are fitted on the training texts alone. In the file, `paths` holds the texts themselves, which show the
examples.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow.csv
from absl import flags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from cmwnet_jax import command
from cmwnet_jax.array_files import reading
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import file_to_write, replace_file

_UNKNOWN, _FIRST_WORD = 1, 2  # tokens; 0 is padding


def vectors(train: list[str], test: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF vectors in fewer dimensions.

    Args:
        train: N texts.
        test: M texts.
        size: number of dimensions, d.

    Returns:
        [N, d] and [M, d] float32.

    Raises:
        UsageError: the training texts have no more than `size` words and pairs that occur twice.
    """
    terms = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        weights = terms.fit_transform(train)
    except ValueError as error:  # no term is left
        raise UsageError(
            f"--text is a column without words that two texts share ({error}): name another"
        ) from error
    if weights.shape[1] <= size:
        raise UsageError(f"--components is {size}, expected fewer than the {weights.shape[1]} terms: lower it")
    project = TruncatedSVD(size, random_state=0)
    return tuple(
        x.astype(np.float32) for x in (project.fit_transform(weights), project.transform(terms.transform(test)))
    )


def tokens(train: list[str], test: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the words; the most frequent word is 2.

    Args:
        train: N texts.
        test: M texts.
        length: largest number of words of a text, the others are cut off.

    Returns:
        [N, l] and [M, l] int32, l at most `length`; 0 is padding.
    """
    counts = Counter(word for text in train for word in set(_words(text)))
    shared = sorted(
        (word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word)
    )
    number = {word: place for place, word in enumerate(shared, _FIRST_WORD)}
    length = min(length, max(len(_words(text)) for text in (*train, *test)))

    def numbered(texts: Iterable[str]) -> np.ndarray:
        rows = [[number.get(word, _UNKNOWN) for word in _words(text)[:length]] for text in texts]
        return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)

    return numbered(train), numbered(test)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


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
    return [" ".join(text.split()) for text in texts], labels


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
    make, size = (tokens, _LENGTH.value) if _TOKENS.value else (vectors, _COMPONENTS.value)
    train_x, test_x = make(texts["train"], texts["test"], size)
    arrays = {
        "train_x": train_x,
        "train_y": np.array(labels["train"]),
        "test_x": test_x,
        "test_y": np.array(labels["test"]),
        "paths": np.array(texts["train"]),
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
    _COMPONENTS = flags.DEFINE_integer("components", 300, "size of a vector", lower_bound=1)
    _TOKENS = flags.DEFINE_bool("tokens", False, "make tokens instead of vectors")
    _LENGTH = flags.DEFINE_integer("length", 64, "most words of a text that become tokens", lower_bound=1)
    command.run(main)
