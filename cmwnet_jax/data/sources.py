"""Data sets by name, read through `tfds.data_source`; reading them does not need TensorFlow.

`open` gives random access to a set of any size, one decoded example at a time, as Grain needs it. `load`
reads a set that fits into memory as arrays.
"""

import contextlib
import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmwnet_jax.array_files import read_npy
from cmwnet_jax.data import checksums, example_names, prepare
from cmwnet_jax.data.builders import images as images
from cmwnet_jax.data.builders.base import TEST_SPLITS
from cmwnet_jax.data.builders.contents import KEY_VERSION, KEY_VERSION_FACT
from cmwnet_jax.data.example_reader import ExampleReader as ExampleReader
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import replace_file

DATASETS = prepare.DATASETS
_MEMORY_LIMIT = 8 << 30  # bytes of pixels; ImageNet at 224x224 would be 190 GB


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prepared data set, not read yet.

    Attributes:
        name: the data set's name.
        class_names: C names, in label order.
        splits: all splits by name, in the order of the prepared files, which for our own builders is the
            original order.
        test_split: name of the split to test on.
        folder: the folder of the prepared set.
        files: version and hash of the user's files that it was prepared from, `VERSION-HASH`; empty for others.
        has_given_labels: whether the training labels come with true ones: `label` is then the true label, and
            `given_label` the one that training sees.
        vocabulary: number of tokens, all splits' largest plus 1; 0 for inputs of another kind.
        words: what each token stands for, if that is known.
        one_unit: whether the columns of vectors have one unit, and are scaled by one number.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, ExampleReader]
    test_split: str
    folder: str
    files: str = ""
    has_given_labels: bool = False
    vocabulary: int = 0
    words: Sequence[str] = ()
    one_unit: bool = False

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def train(self) -> ExampleReader:
        """The training split."""
        return self.splits["train"]

    @property
    def test(self) -> ExampleReader:
        """The split to test on."""
        return self.splits[self.test_split]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory, in their original order; without `ids`, in the order of the prepared files.

    Attributes:
        images: [N, height, width, channels] uint8, or inputs of another kind (`data.kinds`).
        labels: [N] int32, in [0, C).
        ids: [N] str, the source's names of the examples, e.g. `train_00017` or `train/cat/0003.jpg`; None
            if it has none.
        columns: the source's other integers by name, each [N] int32, e.g. `coarse_label` or `worse_label`.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split with true labels; an example's row is its id in biases."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)


def open(
    name: str,
    data_dir: str = "",
    raw_dir: str = "",
    *,
    options: Mapping[str, str] | None = None,
    decode: bool = True,
    needed: Collection[str] = ("train",),
) -> Source:
    """Opens a data set of any size without reading it; prepares it as ArrayRecord on first use.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of all prepared data sets; empty for the environment variable `TFDS_DATA_DIR`,
            or `~/tensorflow_datasets` if that is not set.
        raw_dir: folder or archive of a set whose files are downloaded by hand. Empty uses the set that is
            already prepared. Different files are prepared separately, each under its own checksum; of more
            than 256 MiB of images, a changed one is told by its path, size or label alone.
        options: from `prepare.options_of`; None for the defaults.
        decode: whether examples hold decoded images or encoded bytes.
        needed: the splits that it must have besides one to test on.

    Raises:
        UsageError: the name is unknown, raw files are missing or cannot be used, TensorFlow is needed and
            missing, the folder cannot be written, or a split is missing.
    """
    if "train" in needed:
        prepare.check_can_train(name)
    builder = prepare.prepared(name, data_dir, raw_dir, options)
    split_names = list(builder.info.splits)
    test_split = prepare.TFDS_TEST_SPLITS.get(name) or next(s for s in TEST_SPLITS if s in split_names)
    for split in (*needed, test_split):
        if split not in split_names:
            raise UsageError(
                f"data.name is {name!r}, of which only {', '.join(split_names)} is prepared in "
                f"{builder.data_dir}, expected {split} too: remove that folder and prepare it from all its "
                "files"
            )
    facts = builder.info.metadata or {}
    source = Source(
        name=name,
        class_names=tuple(builder.info.features["label"].names),
        splits={split: ExampleReader(builder, split, decode) for split in split_names},
        test_split=test_split,
        folder=str(builder.data_dir),
        files=_files(name, builder, raw_dir),
        has_given_labels="given_label" in builder.info.features,
        vocabulary=facts.get("vocabulary", 0),
        words=tuple(facts.get("words", ())),
        one_unit=bool(facts.get("one_unit", False)),
    )
    folder = Path(source.folder)
    for split in (*needed, test_split):
        if checksums.has_begun(folder) and checksums.expected(folder, split) is None:
            read_labels(source, split)  # stores the checksums of a new set
    return source


def _files(name: str, builder, raw_dir: str) -> str:
    """`Source.files`; empty if the builder's configuration is no hash of the user's files."""
    if name not in prepare.BUILDERS or builder.builder_config is None:
        return ""
    # Without its files, nobody knows how the key of a set of an older version was made.
    version = (builder.info.metadata or {}).get(KEY_VERSION_FACT, KEY_VERSION if raw_dir else 1)
    return f"{version}-{builder.builder_config.name}"


def load(name: str, data_dir: str = "", raw_dir: str = "") -> Dataset:
    """Reads a whole data set into memory; prepares it as ArrayRecord on first use.

    Args:
        name: one of `DATASETS`.
        data_dir: as in `open`.
        raw_dir: as in `open`.

    Raises:
        UsageError: as `open` and `read`.
    """
    return read(open(name, data_dir, raw_dir))


def read(source: Source) -> Dataset:
    """Reads a whole data set into memory.

    Args:
        source: the open data set.

    Raises:
        UsageError: images differ in size or do not fit into memory, or a label is not a class.
    """
    train, test = (read_split(source, split) for split in ("train", source.test_split))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(_uneven(source.name, train.images.shape[1:], test.images.shape[1:]))
    return Dataset(name=source.name, class_names=source.class_names, train=train, test=test)


def read_labels(source: Source, split: str, feature: str = "label") -> np.ndarray:
    """A split's true labels, read without decoding images; stored beside the prepared files for the next time.

    Args:
        source: an open data set.
        split: name of the split.
        feature: name of the labels, `label` or `given_label`.

    Returns:
        [N] int32, in [0, C).

    Raises:
        UsageError: a label is not a class, or has changed since the set was prepared.
    """
    records = source.splits[split].encoded()
    labels = _kept_labels(source, split, feature, len(records))
    if labels is not None:
        return labels
    labels = np.empty(len(records), np.int32)
    for rows, examples in records.read():
        labels[rows.start : rows.stop] = [example[feature] for example in examples]
    check_labels(labels, source.num_classes, f"{source.name}'s {split} labels")
    with contextlib.suppress(OSError):  # a read-only folder only costs time
        replace_file(_kept(source, split, feature), lambda file: np.save(file, labels))
    return labels


def _kept(source: Source, split: str, feature: str) -> Path:
    return Path(source.folder) / f"labels-{split}{'' if feature == 'label' else f'-{feature}'}.npy"


def _kept_labels(source: Source, split: str, feature: str, size: int) -> np.ndarray | None:
    """The stored copy of the labels if it is valid; None to read them again."""
    expected = checksums.expected(Path(source.folder), split)
    if expected is None and os.access(source.folder, os.W_OK):
        return None  # there is no checksum yet; reading all labels adds it
    try:
        labels = read_npy(_kept(source, split, feature), "", "")
        check_labels(labels, source.num_classes)
    except UsageError:
        return None
    vouched_for = expected is None or expected.get(feature) == checksums.labels_checksum(labels)
    return labels if len(labels) == size and vouched_for else None


def read_split(source: Source, split: str) -> Split:
    """Reads a split into memory.

    Args:
        source: an open data set.
        split: name of the split.

    Raises:
        UsageError: images differ in size or do not fit into memory, or a label is not a class.
    """
    records = source.splits[split]
    first = records[0]
    shape = first["image"].shape
    if len(records) * first["image"].nbytes > _MEMORY_LIMIT:
        raise UsageError(
            f"data.name is {source.name!r}, whose {split} split is {len(records)} examples of {shape}, more "
            f"than {_MEMORY_LIMIT >> 30} GiB: set data.path=stream"
        )
    pixels = np.empty((len(records), *shape), first["image"].dtype)
    others = []
    for rows, examples in records.read():
        for row, example in zip(rows, examples, strict=True):
            image = example.pop("image")
            if image.shape != shape:
                raise UsageError(_uneven(source.name, shape, image.shape))
            pixels[row] = image
            others.append(example)
    example_names.keep_names(source, split, others)
    labels = np.array([example["label"] for example in others], np.int32)
    check_labels(labels, source.num_classes, f"{source.name}'s {split} labels")
    ids = np.array([example["id"] for example in others]) if "id" in first else None
    names = [name for name, value in first.items() if name != "label" and isinstance(value, int | np.integer)]
    columns = {name: np.array([example[name] for example in others], np.int32) for name in names}
    if source.name in prepare.TFDS_TEST_SPLITS and ids is not None:
        # tfds shuffles what it writes; the ids give the original order (Q47).
        order = np.argsort(ids, kind="stable")
        pixels, labels, ids = pixels[order], labels[order], ids[order]
        columns = {name: column[order] for name, column in columns.items()}
    return Split(images=pixels, labels=labels, ids=ids, columns=columns)


def _uneven(name: str, first: tuple, other: tuple) -> str:
    return (
        f"data.name is {name!r}, whose images differ in size, e.g. {first} and {other}, expected one size on "
        "the devices: set data.crop_pixels to the size that the network should see, and data.path to 'auto'"
    )


def check_labels(labels: np.ndarray, num_classes: int, field: str = "labels") -> None:
    """Raises a UsageError if a label is not an integer in [0, num_classes).

    Args:
        labels: [N] labels.
        num_classes: C.
        field: name of the labels in the error.
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
