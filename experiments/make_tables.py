"""Makes small sets with a known truth for experiments/audit_sets.py: .npz files for the data set `arrays`.

    python -m experiments.make_tables --output=FOLDER

- breast_cancer.npz: scikit-learn's 569 tumours of 30 measurements, two classes, with their labels as they are;
- blobs.npz: 4,000 made-up points of 20 numbers in six classes; the largest has ten times as many as the
  smallest. 40% of the labels of the three smallest classes are those of the largest, as an annotator in doubt
  would choose; `train_true` has the truth.

A fifth of each set, of each class alike, is for testing, and has its right labels.
"""

from pathlib import Path

import numpy as np
from absl import flags
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.model_selection import train_test_split

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write, replace_file

_SHARES = (0.4, 0.25, 0.15, 0.09, 0.07, 0.04)
_RARE = (3, 4, 5)
_FLIPPED = 0.4


def breast_cancer() -> dict[str, np.ndarray]:
    """The arrays of breast_cancer.npz by name; 455 examples are for training."""
    x, y = load_breast_cancer(return_X_y=True)
    return _split(x, y) | {"class_names": np.array(["malignant", "benign"])}


def blobs() -> dict[str, np.ndarray]:
    """The arrays of blobs.npz by name; 3,200 examples are for training."""
    informative = {"n_features": 20, "n_informative": 10, "n_redundant": 4, "n_clusters_per_class": 2}
    classes = {"n_classes": len(_SHARES), "weights": list(_SHARES), "class_sep": 1.5, "flip_y": 0}
    x, y = make_classification(4000, **informative, **classes, random_state=0)
    arrays = _split(x, y)
    true = arrays["train_y"]
    flipped = np.isin(true, _RARE) & (np.random.default_rng(0).random(len(true)) < _FLIPPED)
    return arrays | {"train_true": true, "train_y": np.where(flipped, 0, true)}


def _split(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def main(argv: list[str]) -> None:
    """Writes both files."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    output = Path(folder_to_write("--output", command.required(_OUTPUT.value, "output", "a folder")))
    output.mkdir(parents=True, exist_ok=True)
    for make in (breast_cancer, blobs):
        arrays = make()
        replace_file(output / f"{make.__name__}.npz", lambda file, arrays=arrays: np.savez(file, **arrays))
        print(f"written: {output / make.__name__}.npz, {len(arrays['train_y'])} examples for training")


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "folder for the files")
    command.run(main)
