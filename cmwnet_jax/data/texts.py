"""Texts as vectors or as tokens. Both are fitted on the training texts alone."""

import functools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from cmwnet_jax.data import kinds
from cmwnet_jax.errors import UsageError

UNKNOWN = 1
"""The token of words that occur in fewer than two training texts; `kinds.PADDING`, 0, fills up short texts."""

_NO_SIZE = 1e-6  # of the largest singular value; smaller ones are the rounding of zeros
_ROWS_NAMED = 3


class Vectors:
    """TF-IDF vectors in fewer dimensions (latent semantic analysis).

    The terms are words of at least two characters, and pairs of them, that occur in at least two training
    texts; they count 1 + log(count). The vectors are projected on the training vectors' directions of largest
    singular values. This is done when texts are first encoded; until then, only the terms are counted.

    The numbers have one unit. Divided by their standard deviations, the directions that hardly any two texts
    share would count as much as those of the classes: of 160 texts in four classes, 78% of the test texts were
    classified rightly then, and 95% as they are (an MLP, `experiments/own_texts.py`).

    Attributes:
        kind: one of `kinds.DTYPES`.
        has_one_unit: whether the numbers are to be scaled by one number for all.
        length: d, the numbers of a vector: `size`, or fewer if there are fewer terms or training texts.
        words: none.
        words_are: which words count.
    """

    kind = kinds.VECTORS
    has_one_unit = True
    words_are = "word of at least two characters"
    words: Sequence[str] = ()

    def __init__(self, train: Sequence[str], size: int = 300):
        """Counts the terms.

        Args:
            train: N texts.
            size: largest number of dimensions.

        Raises:
            UsageError: no word is in two texts.
        """
        self._terms = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        try:
            self._weights = self._terms.fit_transform(train)
        except ValueError as error:  # no term is left
            raise _nothing_shared(self, train) from error
        self.length = min(size, *self._weights.shape)

    @functools.cached_property
    def _projection(self) -> TruncatedSVD:
        return TruncatedSVD(self.length, random_state=0).fit(self._weights)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors [n, d] float32 of n texts.

        Directions in which all training texts are 0, as some are if texts are repeated, are 0 for other texts,
        too: nothing can be learned about them.
        """
        sizes = self._projection.singular_values_
        vectors = self._projection.transform(self._terms.transform(texts))
        return np.where(sizes > _NO_SIZE * sizes.max(), vectors, 0).astype(np.float32)

    def is_unknown(self, texts: Sequence[str]) -> np.ndarray:
        """[n] bool, whether a text has none of the terms; its vector is 0."""
        return self._terms.transform(texts).getnnz(axis=1) == 0


class Tokens:
    """The numbers of the words and punctuation marks; 2 is the one that is in most training texts.

    Attributes:
        kind: one of `kinds.DTYPES`.
        has_one_unit: false; tokens are not scaled.
        length: the numbers of a text: `size`, or fewer if all training texts are shorter. Longer texts are cut.
        words: what each number stands for; the first two are padding and unknown words.
        words_are: which words count.
    """

    kind = kinds.TOKENS
    has_one_unit = False
    words_are = "word"

    def __init__(self, train: Sequence[str], size: int = 64):
        """Counts the words.

        Args:
            train: N texts.
            size: largest number of words of a text.

        Raises:
            UsageError: no word is in two texts.
        """
        counts = _counts(train)
        shared = sorted((word for word in counts if counts[word] > 1), key=lambda word: (-counts[word], word))
        if not shared:
            raise _nothing_shared(self, train)
        self.words = ["[padding]", "[unknown]", *shared]
        self.length = min(size, max(len(_split(text)) for text in train))
        self._number = {word: number for number, word in enumerate(self.words) if number > UNKNOWN}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The tokens [n, length] int32 of n texts."""
        tokens = np.full((len(texts), self.length), kinds.PADDING, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self._number.get(word, UNKNOWN) for word in _split(text)[: self.length]]
            row[: len(numbers)] = numbers
        return tokens

    def is_unknown(self, texts: Sequence[str]) -> np.ndarray:
        """[n] bool, whether a text has no known word among those that become tokens."""
        return np.array([self._number.keys().isdisjoint(_split(text)[: self.length]) for text in texts], bool)


ENCODERS = {kinds.VECTORS: Vectors, kinds.TOKENS: Tokens}
"""What texts are made into -> the class that does it."""


def on_one_line(text: str) -> str:
    """The text with single spaces for all white space."""
    return " ".join(text.split())


def _counts(texts: Sequence[str]) -> Counter[str]:
    """Word or sign -> the number of texts that have it."""
    return Counter(word for text in texts for word in set(_split(text)))


def _split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def first_rows(rows: Sequence[int]) -> str:
    """Rows as a clause names them: `row 5`, `rows 5, 9 and 12`, or `rows 5, 9, 12 and so on`.

    Args:
        rows: at least one row, from 0; they are named from 1 on.
    """
    names = [str(row + 1) for row in rows[:_ROWS_NAMED]]
    if len(names) == 1:
        return f"row {names[0]}"
    if len(rows) > len(names):
        return f"rows {', '.join(names)} and so on"
    return f"rows {', '.join(names[:-1])} and {names[-1]}"


def empty_rows(texts: Sequence[str]) -> list[int]:
    """Places of the texts that are empty or white space alone."""
    return [place for place, text in enumerate(texts) if not text.strip()]


def no_text(name: str, rows: Sequence[int]) -> str:
    """The end of the error for texts that are empty.

    Args:
        name: the column.
        rows: their rows in the file, from 0.
    """
    count = "a text is" if len(rows) == 1 else f"{len(rows):,} texts are"
    return f"where {count} empty in the column {name!r}, {first_rows(rows)}: fill them in or take the rows out"


def unknown_words(encoder: "Vectors | Tokens", texts: Sequence[str], rows: Sequence[int], what: str) -> str:
    """A sentence about texts without any known word; empty if there is none.

    Args:
        encoder: what makes the texts into numbers.
        texts: n texts.
        rows: [n] their rows in their file, from 0.
        what: what the texts are, e.g. `training texts`.
    """
    places = np.flatnonzero(encoder.is_unknown(texts))
    if not len(places):
        return ""
    where = first_rows([int(rows[place]) for place in places])
    return (
        f"{len(places):,} of {len(texts):,} {what} have no {encoder.words_are} that is in two training texts, "
        f"so that the classifier sees nothing of them: {where}"
    )


def _nothing_shared(encoder: "Vectors | Tokens", train: Sequence[str]) -> UsageError:
    remedy = "name the column that holds them"
    if encoder.kind == kinds.VECTORS and any(count > 1 for count in _counts(train).values()):
        remedy = "make tokens of them (data.texts=tokens, or --tokens), which take shorter words and signs, too"
    return UsageError(
        f"the {len(train)} training texts have no {encoder.words_are} that is in two of them, expected texts of"
        f" one language with spaces between the words: {remedy}"
    )
