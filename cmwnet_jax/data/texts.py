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


class Vectors:
    """TF-IDF vectors in fewer dimensions (latent semantic analysis).

    The terms are words and pairs of words that occur in at least two training texts; they count 1 + log(count).
    The vectors are projected on the training vectors' directions of largest singular values. This is done when
    texts are first encoded; until then, only the terms are counted.

    Attributes:
        kind: one of `kinds.DTYPES`.
        length: d, the numbers of a vector: `size`, or fewer if there are fewer terms or training texts.
        words: none.
    """

    kind = kinds.VECTORS
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
            raise _nothing_shared(train) from error
        self.length = min(size, *self._weights.shape)

    @functools.cached_property
    def _projection(self) -> TruncatedSVD:
        return TruncatedSVD(self.length, random_state=0).fit(self._weights)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors [n, d] float32 of n texts."""
        return self._projection.transform(self._terms.transform(texts)).astype(np.float32)


class Tokens:
    """The numbers of the words and punctuation marks; 2 is the one that is in most training texts.

    Attributes:
        kind: one of `kinds.DTYPES`.
        length: the numbers of a text: `size`, or fewer if all training texts are shorter. Longer texts are cut.
        words: what each number stands for; the first two are padding and unknown words.
    """

    kind = kinds.TOKENS

    def __init__(self, train: Sequence[str], size: int = 64):
        """Counts the words.

        Args:
            train: N texts.
            size: largest number of words of a text.

        Raises:
            UsageError: no word is in two texts.
        """
        split = [_split(text) for text in train]
        counts = Counter(word for words in split for word in set(words))
        shared = sorted((word for word in counts if counts[word] > 1), key=lambda word: (-counts[word], word))
        if not shared:
            raise _nothing_shared(train)
        self.words = ["[padding]", "[unknown]", *shared]
        self.length = min(size, max(map(len, split)))
        self._number = {word: number for number, word in enumerate(self.words) if number > UNKNOWN}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The tokens [n, length] int32 of n texts."""
        tokens = np.full((len(texts), self.length), kinds.PADDING, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self._number.get(word, UNKNOWN) for word in _split(text)[: self.length]]
            row[: len(numbers)] = numbers
        return tokens


ENCODERS = {kinds.VECTORS: Vectors, kinds.TOKENS: Tokens}
"""What texts are made into -> the class that does it."""


def on_one_line(text: str) -> str:
    """The text with single spaces for all white space."""
    return " ".join(text.split())


def _split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _nothing_shared(train: Sequence[str]) -> UsageError:
    return UsageError(
        f"the {len(train)} training texts have no word that is in two of them, expected texts in one language: "
        f"name the column that holds them"
    )
