"""scikit-learn's digits: 1,797 real 8x8 images, without a download."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cmwnet_jax.data.builders.base import LocalBuilder
from cmwnet_jax.data.builders.contents import InMemory

_TEST_SIZE = 540  # 30%: 54 examples per class, a standard error near 1% for the demo's accuracies


class Digits(LocalBuilder):
    """8x8 grey digits with grey levels 0 to 16, split once, stratified by class: 1,257 and 540.

    An example's id is its row in scikit-learn's arrays.
    """

    VERSION = tfds.core.Version("1.1.0")
    URL = "https://archive.ics.uci.edu/dataset/80"

    @classmethod
    def scan(cls, root: Path) -> InMemory:
        """The arrays that scikit-learn includes.

        Args:
            root: not used.
        """
        del root
        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)), test_size=_TEST_SIZE, stratify=digits.target, random_state=0
        )
        # Scale grey levels 0 to 16 to the range of uint8, which the input path expects.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        rows = {"train": np.sort(train), "test": np.sort(test)}
        return InMemory(
            {split: (images[ids], digits.target[ids]) for split, ids in rows.items()},
            class_names=[str(digit) for digit in range(10)],
            ids=rows,
        )
