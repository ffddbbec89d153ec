"""What our builders share: the contents of a data set before it is prepared, and how they are written.

A builder is a `LocalBuilder` with a `scan` that turns raw files into `Contents`: arrays, or encoded images by
their paths. Records are written in the contents' order, never shuffled, so that row i stays row i.
"""

import abc
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data.builders import images
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error

# tfds holds the encoded examples of a shard in memory until it is written.
_SHARD_EXAMPLES = 4096

TEST_SPLITS = ("test", "val", "validation")
"""Names that a test split may have, the first found being the one that is tested on."""


class Contents(abc.ABC):
    """A data set before it is prepared.

    Attributes:
        class_names: C names, in label order.
        sizes: examples of each split.
        key: what the examples are, as 16 hexadecimal digits, so that other files get another folder; empty
            for a set that has no raw files.
        image_feature: how tfds stores an image.
    """

    class_names: Sequence[str]
    sizes: Mapping[str, int]
    key: str
    image_feature: tfds.features.FeatureConnector

    @abc.abstractmethod
    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields `id`, `image` and `label` of the rows [start, stop) of a split."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Frees what the contents hold open."""


class ImageArrays(Contents):
    """Images that are already pixels in memory, written as these bytes."""

    def __init__(
        self,
        splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
        class_names: Sequence[str],
        key: str = "",
        ids: Mapping[str, Sequence] | None = None,
    ):
        """Takes the arrays.

        Args:
            splits: per split, images [N, height, width, channels] uint8 and labels [N] int in [0, C).
            class_names: C names.
            key: see `Contents`.
            ids: per split, N numbers of the examples in their source; None numbers the rows.
        """
        self._splits, self.class_names, self.key = splits, class_names, key
        self._ids = ids or {split: range(len(labels)) for split, (_, labels) in splits.items()}
        self.sizes = {split: len(labels) for split, (_, labels) in splits.items()}
        shape = next(iter(splits.values()))[0].shape[1:]
        self.image_feature = tfds.features.Tensor(
            shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split."""
        pixels, labels = self._splits[split]
        for row in range(start, stop):
            yield {"id": f"{self._ids[split][row]:05d}", "image": pixels[row], "label": int(labels[row])}


class ImageFile(NamedTuple):
    """An example that is an image file: its path in the raw files, which is also its id, and its label."""

    path: str
    label: int


class ImageFiles(Contents):
    """Images that stay the encoded bytes they are; each is decoded once, to see that it can be."""

    def __init__(
        self,
        files: RawFiles,
        splits: Mapping[str, Sequence[ImageFile]],
        class_names: Sequence[str],
        *,
        channels: int | None = None,
        shape: tuple[int, int] | None = None,
    ):
        """Takes the lists of files.

        Args:
            files: where they are read from; closed by `close`.
            splits: per split, its examples in the order that they shall keep.
            class_names: C names.
            channels: what every image must have; None allows a mixture, read as RGB.
            shape: (height, width) of every image; None allows any.
        """
        self._files, self._splits, self.class_names = files, splits, class_names
        self._channels, self._shape = channels, shape
        self.sizes = {split: len(items) for split, items in splits.items()}
        self.image_feature = tfds.features.Image(shape=(*(shape or (None, None)), channels or 3))
        rows = (
            f"{split} {path} {label} {files.sizes[path]}\n"
            for split, items in splits.items()
            for path, label in items
        )
        self.key = digest(
            line.encode() for line in itertools.chain((f"{name}\n" for name in class_names), rows)
        )

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split.

        Raises:
            UsageError: images among them cannot be used; after the last, to know how many.
        """
        bad = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for at in range(start, stop, 256):  # bounds what the threads read ahead
                items = self._splits[split][at : min(at + 256, stop)]
                for item, (data, problem) in zip(items, pool.map(self._checked, items), strict=True):
                    if problem:
                        bad.append(f"{item.path!r}: {problem}")
                    else:
                        yield {"id": item.path, "image": data, "label": item.label}
        if bad:
            raise raw_error(
                self._files.root,
                f"where {len(bad)} of the first {stop} images of "
                f"the split {split} cannot be used, the first {bad[0]}: fetch them again or take them out",
            )

    def _checked(self, item: ImageFile) -> tuple[bytes, str]:
        try:
            data = self._files.read(item.path)
        except OSError as error:
            return b"", str(error)
        return data, images.problem_with(data, self._channels, self._shape)

    def close(self) -> None:
        """Closes the files."""
        self._files.close()


def digest(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits that stand for these bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]


def check_splits(split_names: Sequence[str], root: Path, wanted: str) -> None:
    """Raises a UsageError unless there is `train` and a test split.

    Args:
        split_names: those found.
        root: where they were looked for.
        wanted: what the builder wants, for the error.
    """
    for names in (("train",), TEST_SPLITS):
        if not set(names) & set(split_names):
            raise raw_error(root, f"which has no {' or '.join(names)} split: {wanted}")


def check_classes(labels: Mapping[str, np.ndarray], class_names: Sequence[str], root: Path) -> None:
    """Raises a UsageError where a class has no example in a split.

    Args:
        labels: per split, [N] int in [0, C).
        class_names: C names.
        root: where the examples come from.
    """
    for split, given in labels.items():
        empty = np.flatnonzero(np.bincount(given, minlength=len(class_names)) == 0)
        if len(empty):
            raise raw_error(
                root,
                f"where {len(empty)} of {len(class_names)} classes have no "
                f"image in the split {split}, the first {class_names[empty[0]]!r}: add images of it or take "
                "the class out",
            )


class LocalBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A tfds builder of files that lie on this machine.

    Attributes:
        WANTS: the files it wants, as the end of a sentence.
        URL: where they are published; empty where that is nowhere in particular.
    """

    VERSION = tfds.core.Version("1.0.0")
    WANTS = ""
    URL = ""

    def __init__(self, *, data_dir: str, raw_dir: str = ""):
        """Lists the raw files.

        Args:
            data_dir: where prepared data sets are kept.
            raw_dir: a folder or archive; empty for a builder that wants none.

        Raises:
            UsageError: the files are not what the builder wants.
        """
        self.contents = self.scan(Path(raw_dir).expanduser())
        config = None
        if self.contents.key:
            config = tfds.core.BuilderConfig(name=self.contents.key, description=f"Prepared from {raw_dir}")
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    @classmethod
    def wanted(cls) -> str:
        """One clause: what `data.raw_dir` has to be, and where it is published."""
        where = f", published at {cls.URL}" if cls.URL else ""
        return f"set --config.data.raw_dir to {cls.WANTS}{where}"

    @classmethod
    @abc.abstractmethod
    def scan(cls, root: Path) -> Contents:
        """What there is at `root`, checked as far as that goes without reading every image."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.URL,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": self.contents.image_feature,
                    "label": tfds.features.ClassLabel(names=list(self.contents.class_names)),
                }
            ),
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return {
            split: [
                partial(self._shard, split, at, min(at + _SHARD_EXAMPLES, size))
                for at in range(0, size, _SHARD_EXAMPLES)
            ]
            for split, size in self.contents.sizes.items()
        }

    def _shard(self, split: str, start: int, stop: int) -> Iterator[tuple[int, dict]]:
        yield from enumerate(self.contents.examples(split, start, stop), start)


class FilesBuilder(LocalBuilder, skip_registration=True):
    """A builder of image files that lie in a folder or a tar archive."""

    @classmethod
    def scan(cls, root: Path) -> ImageFiles:
        """The images below `root`.

        Args:
            root: the folder, or an archive of it.

        Raises:
            UsageError: it cannot be read, or is not laid out as the builder wants, e.g. a split is missing, a
                class has no image, or a label is beyond the classes.
        """
        files = RawFiles(root)
        try:
            return cls._contents(files)
        except BaseException:
            files.close()
            raise

    @classmethod
    @abc.abstractmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        """The lists of examples, checked as far as that goes without reading every image."""
