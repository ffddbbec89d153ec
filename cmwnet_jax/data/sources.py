"""Data sets by name, read through `tfds.data_source`; TensorFlow is not needed to read them.

`open` gives random access to a set of any size, one decoded example at a time, which is what Grain takes;
`load` reads a set that fits into arrays.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data import prepare
from cmwnet_jax.data.builders import images
from cmwnet_jax.data.builders.base import TEST_SPLITS
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import check_regular, replace_file

DATASETS = prepare.DATASETS
_MEMORY_LIMIT = 8 << 30  # bytes of pixels; ImageNet at 224x224 would be 190 GB
_ID_FEATURES = ("id", "file_name")  # what tfds's own builders call it


class Records:
    """One split as a random-access source of examples, as Grain's `MapDataset.source` takes it.

    `records[i]` is a dictionary: `image` [height, width, channels] uint8 (or the encoded bytes, where `decode`
    is false), `label` int, `id` str where the set has ids, and the set's other features as they are. It can be
    pickled, so that worker processes read and decode.

    Attributes:
        split: the split's name.
        image_size: (height, width) of every image; None where they may differ.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, decode: bool = True):
        """Opens a split.

        Args:
            builder: of a prepared set.
            split: a split's name.
            decode: whether images are decoded.
        """
        feature = builder.info.features["image"]
        self.split, self._decode, self._builder = split, decode, builder
        self.image_size = None if None in feature.shape[:2] else tuple(feature.shape[:2])
        self._channels = feature.shape[-1] if isinstance(feature, tfds.features.Image) else None
        decoders = {} if self._channels is None else {"image": tfds.decode.SkipDecoding()}
        self._source = builder.as_data_source(split=split, decoders=decoders)

    def encoded(self) -> "Records":
        """The same split with images as the bytes they are stored as."""
        return Records(self._builder, self.split, decode=False)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._example(self._source[row])

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The examples at these rows; reading many at once is faster than one by one."""
        return [self._example(example) for example in self._source.__getitems__(rows)]

    def _example(self, example: dict[str, Any]) -> dict[str, Any]:
        example_id = next((example.pop(name) for name in _ID_FEATURES if name in example), None)
        if example_id is not None:
            example["id"] = example_id.decode()
        if self._channels is not None and self._decode:
            example["image"] = images.decode(example["image"], self._channels)
        return example


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prepared data set, of which nothing has been read yet.

    Attributes:
        name: its name.
        class_names: C names, in label order.
        splits: every split by name, in the order of the prepared files: the original order for our own
            builders.
        test_split: the name of the split that is tested on.
        folder: where it is prepared.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Records]
    test_split: str
    folder: str

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def train(self) -> Records:
        """The training split."""
        return self.splits["train"]

    @property
    def test(self) -> Records:
        """The split that is tested on."""
        return self.splits[self.test_split]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory, in their original order; without `ids`, in that of the prepared files.

    Attributes:
        images: [N, height, width, channels] uint8.
        labels: [N] int32, in [0, C).
        ids: [N] str, what the source calls each example, e.g. `train_00017` or `train/cat/0003.jpg`; None
            where it has no names for them.
        columns: the source's other whole numbers by name, each [N] int32, e.g. `coarse_label` or `worse_label`.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set's two splits with true labels; an example's row in its split is its id in biases."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)


def open(name: str, data_dir: str = "", raw_dir: str = "", *, decode: bool = True) -> Source:
    """A data set of any size, prepared as ArrayRecord on first use; nothing is read yet.

    Args:
        name: one of `DATASETS`.
        data_dir: where prepared data sets are kept; empty for the environment's `TFDS_DATA_DIR`,
            or, where that is not set, `~/tensorflow_datasets`.
        raw_dir: the folder or archive of a set whose files are fetched by hand. Empty takes what is already
            prepared. Other files are prepared beside it, under a checksum, never taken for it.
        decode: whether examples hold decoded images or the encoded bytes.

    Raises:
        UsageError: the name is unknown, raw files are missing or cannot be used, TensorFlow is needed and
            missing, or the folder cannot be written.
    """
    builder = prepare.prepared(name, data_dir, raw_dir)
    split_names = list(builder.info.splits)
    test_split = prepare.TFDS_TEST_SPLITS.get(name) or next(s for s in TEST_SPLITS if s in split_names)
    for split in ("train", test_split):
        if split not in split_names:
            raise UsageError(
                f"data.name is {name!r}, of which only {', '.join(split_names)} is prepared in "
                f"{builder.data_dir}, expected {split} too: remove that folder and prepare it from all its "
                "files"
            )
    return Source(
        name=name,
        class_names=tuple(builder.info.features["label"].names),
        splits={split: Records(builder, split, decode) for split in split_names},
        test_split=test_split,
        folder=str(builder.data_dir),
    )


def load(name: str, data_dir: str = "", raw_dir: str = "") -> Dataset:
    """A whole data set in memory, prepared as ArrayRecord on first use.

    Args:
        name: one of `DATASETS`.
        data_dir: as `open` takes it.
        raw_dir: as `open` takes it.

    Raises:
        UsageError: as `open`; images differ in size, are too many for memory, or a label is beyond the classes.
    """
    source = open(name, data_dir, raw_dir)
    train, test = (_read(source, split) for split in ("train", source.test_split))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(_uneven(name, train.images.shape[1:], test.images.shape[1:]))
    return Dataset(name=name, class_names=source.class_names, train=train, test=test)


def read_labels(source: Source, split: str) -> np.ndarray:
    """A split's true labels, without decoding an image; kept beside the prepared files for the next time.

    Args:
        source: an open data set.
        split: a split's name.

    Returns:
        [N] int32, in [0, C).
    """
    kept = Path(source.folder) / f"labels-{split}.npy"
    records = source.splits[split].encoded()
    with contextlib.suppress(OSError, ValueError, EOFError, UsageError):  # missing, or not ours: read again
        check_regular(kept)
        labels = np.load(kept, allow_pickle=False)
        check_labels(labels, source.num_classes)
        if len(labels) == len(records):
            return labels
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), 1024):
        rows = range(start, min(start + 1024, len(records)))
        labels[start : rows.stop] = [example["label"] for example in records.__getitems__(list(rows))]
    check_labels(labels, source.num_classes, f"{source.name}'s {split} labels")
    with contextlib.suppress(OSError):  # a folder that is shared and cannot be written costs time, no more
        replace_file(kept, lambda file: np.save(file, labels))
    return labels


def _read(source: Source, split: str) -> Split:
    records = source.splits[split]
    first = records[0]
    shape = first["image"].shape
    if len(records) * int(np.prod(shape)) > _MEMORY_LIMIT:
        raise UsageError(
            f"data.name is {source.name!r}, whose {split} split is {len(records)} images of {shape}, more than "
            f"{_MEMORY_LIMIT >> 30} GiB: use the streaming path"
        )
    pixels = np.empty((len(records), *shape), np.uint8)
    others = []
    for start in range(0, len(records), 1024):
        rows = range(start, min(start + 1024, len(records)))
        for row, example in zip(rows, records.__getitems__(list(rows)), strict=True):
            image = example.pop("image")
            if image.shape != shape:
                raise UsageError(_uneven(source.name, shape, image.shape))
            pixels[row] = image
            others.append(example)
    labels = np.array([example["label"] for example in others], np.int32)
    check_labels(labels, source.num_classes, f"{source.name}'s {split} labels")
    ids = np.array([example["id"] for example in others]) if "id" in first else None
    names = [name for name, value in first.items() if name != "label" and isinstance(value, int | np.integer)]
    columns = {name: np.array([example[name] for example in others], np.int32) for name in names}
    if source.name in prepare.TFDS_TEST_SPLITS and ids is not None:
        # tfds shuffles what it writes; its ids say what the order was (Q47).
        order = np.argsort(ids, kind="stable")
        pixels, labels, ids = pixels[order], labels[order], ids[order]
        columns = {name: column[order] for name, column in columns.items()}
    return Split(images=pixels, labels=labels, ids=ids, columns=columns)


def _uneven(name: str, first: tuple, other: tuple) -> str:
    return (
        f"data.name is {name!r}, whose images differ in size, e.g. {first} and {other}, expected one size for "
        "a set in memory: use the streaming path"
    )


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
            f"{field}: shape {labels.shape} and dtype {labels.dtype}, expected one whole number an example: "
            "pass class indices [N]"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise UsageError(
            f"{field}: {len(outside)} of {len(labels)} are outside the classes 0 to {num_classes - 1}, first "
            f"{labels[outside[0]]} at row {outside[0]}: correct them or set the number of classes"
        )
