"""scikit-learn's digits: 1,797 real 8x8 images that need no download."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

_TEST_SIZE = 540  # 30%: 54 examples a class, a standard error near 1% for the demo's accuracies


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 grey digits with grey levels 0 to 16, split once, stratified by class: 1,257 and 540."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, as bundled with scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        labels = load_digits().target
        train, test = train_test_split(
            np.arange(len(labels)), test_size=_TEST_SIZE, stratify=labels, random_state=0
        )
        return {
            "train": self._generate_examples(np.sort(train)),
            "test": self._generate_examples(np.sort(test)),
        }

    def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict]]:
        digits = load_digits()
        # Grey levels 0 to 16 are stretched over uint8's range, which the input path expects.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        for row in rows:
            yield int(row), {"image": images[row], "label": int(digits.target[row])}
