"""Data sets by name, read through `tfds.data_source`; TensorFlow is not needed to read them."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

import cmwnet_jax.data.builders as _builders  # noqa: F401  (registers our builders with tfds)
from cmwnet_jax.errors import UsageError, unknown_name

DATASETS = ("digits",)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory, in the order of the prepared files.

    Attributes:
        images: [N, height, width, channels] uint8.
        labels: [N] int32, in [0, C).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set's two splits with true labels; an example's id is its row in its split."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)


def load(name: str, data_dir: str = "") -> Dataset:
    """A whole data set, prepared as ArrayRecord on first use.

    Args:
        name: one of `DATASETS`.
        data_dir: where prepared data sets are kept; empty for the environment's `TFDS_DATA_DIR`,
            or, where that is not set, `~/tensorflow_datasets`.

    Raises:
        UsageError: the name is unknown, the folder cannot be written, or a label is beyond the
            classes.
    """
    if name not in DATASETS:
        raise unknown_name("data.name", name, DATASETS)
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise UsageError(
            f"data.dir is {str(folder)!r}, where {name} cannot be prepared ({error}): "
            f"set --config.data.dir to a folder that can be written"
        ) from error
    class_names = tuple(builder.info.features["label"].names)
    splits = {split: _read(builder, split, len(class_names)) for split in ("train", "test")}
    return Dataset(name=name, class_names=class_names, **splits)


def _read(builder: tfds.core.DatasetBuilder, split: str, num_classes: int) -> Split:
    source = builder.as_data_source(split=split)
    examples = source.__getitems__(range(len(source)))
    labels = np.array([example["label"] for example in examples], np.int32)
    check_labels(labels, num_classes, f"{builder.name}'s {split} labels")
    return Split(images=np.stack([example["image"] for example in examples]), labels=labels)


def check_labels(labels: np.ndarray, num_classes: int, field: str = "labels") -> None:
    """Raises a UsageError where a label is not an integer in [0, num_classes).

    Args:
        labels: [N] labels.
        num_classes: C.
        field: what the error calls them.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"{field}: shape {labels.shape} and dtype {labels.dtype}, expected one whole number an "
            f"example: pass class indices [N]"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise UsageError(
            f"{field}: {len(outside)} of {len(labels)} are outside the classes 0 to {num_classes - 1}, first "
            f"{labels[outside[0]]} at row {outside[0]}: correct them or set the number of classes"
        )
