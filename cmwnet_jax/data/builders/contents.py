"""Contents of a data set before it is prepared: arrays, texts, or encoded image files."""

import abc
import contextlib
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data import kinds
from cmwnet_jax.data.builders import images
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error
from cmwnet_jax.data.texts import ENCODERS, unknown_words
from cmwnet_jax.errors import naming_field

PREPARING_THREADS = min(8, os.cpu_count() or 1)
"""Threads that check images while a set is prepared."""

KEY_VERSION = 2
"""Of the way in which `Contents.key` is made; another one makes other keys of the same files."""

KEY_VERSION_FACT = "key_version"
"""Its name among the facts that are stored with a set; sets of older versions of the package have none."""

_HASHED_BYTES = 256 << 20  # of images in all, up to which an edited one is told by more than its size


class Contents(abc.ABC):
    """Contents of a data set before it is prepared.

    Attributes:
        class_names: C names, in label order.
        sizes: number of examples per split.
        key: hash of the examples, 16 hexadecimal digits, so that other files get another folder; empty for a
            set without raw files.
        image_feature: the tfds feature that stores an image, or another kind of input (`data.kinds`).
        more_features: name -> tfds feature of what an example has beyond `id`, `image` and `label`.
        facts: what is known of the whole set by name, stored with it as JSON: of tokens, `vocabulary`, their
            number, and perhaps `words`, what each stands for; of vectors, perhaps `one_unit`, whether their
            columns have one.
        notes: sentences about what the user may not expect, which are said when the set is prepared.
        num_bytes: bytes of the inputs as they will be stored.
        image_files: the encoded files that they are; None for inputs in memory.
    """

    class_names: Sequence[str]
    sizes: Mapping[str, int]
    key: str
    image_feature: tfds.features.FeatureConnector
    more_features: Mapping[str, tfds.features.FeatureConnector] = {}
    facts: Mapping[str, Any] = {}
    notes: Sequence[str] = ()
    num_bytes: int = 0
    image_files: "ImageFiles | None" = None

    @abc.abstractmethod
    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields `id`, `image`, `label` and the further features of the rows [start, stop) of a split."""

    def close(self) -> None:  # noqa: B027 (most subclasses hold nothing open)
        """Closes open files."""


class InMemory(Contents):
    """Images, vectors or tokens in memory, written unchanged."""

    def __init__(
        self,
        splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
        class_names: Sequence[str],
        key: str = "",
        ids: Mapping[str, Sequence] | None = None,
    ):
        """Takes the arrays.

        Args:
            splits: per split, inputs [N, ...] of one of `kinds.DTYPES`, and labels [N] int in [0, C).
            class_names: C names.
            key: see `Contents`.
            ids: per split, the examples' N names or numbers in their source; of a missing split, row numbers.
        """
        self._splits, self.class_names, self.key = splits, class_names, key
        rows = {split: range(len(labels)) for split, (_, labels) in splits.items()}
        self._ids = {**rows, **(ids or {})}
        self.sizes = {split: len(labels) for split, (_, labels) in splits.items()}
        self.num_bytes = sum(inputs.nbytes for inputs, _ in splits.values())
        first = next(iter(splits.values()))[0]
        self.image_feature = _tensor(first.shape[1:], first.dtype)

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split."""
        inputs, labels = self._splits[split]
        for row in range(start, stop):
            name = self._ids[split][row]
            yield {
                "id": name if isinstance(name, str) else f"{name:05d}",
                "image": inputs[row],
                "label": int(labels[row]),
            }


class Texts(Contents):
    """Texts, which are made into vectors or tokens when they are first asked for."""

    def __init__(
        self,
        texts: Mapping[str, Sequence[str]],
        labels: Mapping[str, np.ndarray],
        class_names: Sequence[str],
        encoder: str,
        ids: Mapping[str, Sequence[int]],
    ):
        """Takes the texts.

        Args:
            texts: per split, N texts; the encoder is fitted on those of `train`.
            labels: per split, [N] int in [0, C).
            class_names: C names.
            encoder: a name in `data.texts.ENCODERS`.
            ids: as in `InMemory`.

        Raises:
            UsageError: no word is in two training texts.
        """
        with naming_field("data.raw_dir"):
            self._encoder = ENCODERS[encoder](texts["train"])
        self._texts, self._labels, self._ids = texts, labels, ids
        self.class_names, self.sizes = class_names, {split: len(own) for split, own in texts.items()}
        dtype = kinds.DTYPES[self._encoder.kind]
        self.image_feature = _tensor((self._encoder.length,), dtype)
        self.num_bytes = sum(self.sizes.values()) * self._encoder.length * np.dtype(dtype).itemsize
        words = list(self._encoder.words)
        self.facts = {"vocabulary": len(words), "words": words} if words else {}
        self.facts |= {"one_unit": True} if self._encoder.has_one_unit else {}
        # Of the texts, not of the vectors, whose last digits may differ between machines.
        content = [
            f"{encoder} {self._encoder.length} {list(class_names)} {self._encoder.has_one_unit}".encode()
        ]
        content += [str(list(own)).encode() for own in texts.values()]
        content += [np.asarray(own).tobytes() for part in (labels, ids) for own in part.values()]
        self.key = digest(content)
        self._encoded: InMemory | None = None

    @property
    def notes(self) -> list[str]:
        """How many texts of each split have no known word."""
        said = [
            unknown_words(self._encoder, own, self._ids[split], f"texts of {split}")
            for split, own in self._texts.items()
        ]
        return [sentence for sentence in said if sentence]

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split."""
        if self._encoded is None:
            splits = {
                name: (self._encoder.encode(own), self._labels[name]) for name, own in self._texts.items()
            }
            self._encoded = InMemory(splits, self.class_names, ids=self._ids)
        yield from self._encoded.examples(split, start, stop)


class ImageFile(NamedTuple):
    """An example in an image file: its path in the raw files, which is also its id, and its label."""

    path: str
    label: int


class ImageFiles(Contents):
    """Images as encoded files, stored unchanged; each is decoded once to check it."""

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
            files: the raw files; `close` closes them.
            splits: per split, its examples in the order to keep.
            class_names: C names.
            channels: required channels of every image; None allows a mixture, read as RGB.
            shape: required (height, width) of every image; None allows any.
        """
        self._files, self._splits, self.class_names = files, splits, class_names
        self._channels, self._shape, self.image_files = channels, shape, self
        self.num_bytes = sum(files.sizes[item.path] for items in splits.values() for item in items)
        self.sizes = {split: len(items) for split, items in splits.items()}
        self.image_feature = tfds.features.Image(shape=(*(shape or (None, None)), channels or 3))
        rows = (
            f"{split} {path} {label} {self._fingerprint(path)}\n"
            for split, items in splits.items()
            for path, label in items
        )
        self.key = digest(
            line.encode() for line in itertools.chain((f"{name}\n" for name in class_names), rows)
        )

    def _fingerprint(self, path: str) -> str:
        """Tells an edited image; of a large set by its size alone, as every launch would have to read it."""
        size = f"{self._files.sizes[path]}"
        if self.num_bytes > _HASHED_BYTES:
            return size
        with contextlib.suppress(OSError):  # `examples` reports it, and how many others there are
            return f"{size} {zlib.crc32(self._files.read(path)):08x}"
        return size

    def examples(self, split: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the rows [start, stop) of a split.

        Raises:
            UsageError: some images cannot be used; raised after the last one, to report how many.
        """
        bad = []
        with ThreadPoolExecutor(PREPARING_THREADS) as pool:
            for at in range(start, stop, 256):  # limits how far the threads read ahead
                items = self._splits[split][at : min(at + 256, stop)]
                for item, (data, problem) in zip(items, pool.map(self.checked, items), strict=True):
                    if problem:
                        bad.append(f"{item.path!r}: {problem}")
                    else:
                        yield {"id": item.path, "image": data, "label": item.label}
        if bad:
            raise raw_error(
                self._files.root,
                f"where {len(bad)} of the first {stop} images of the split {split} cannot be used, the first "
                f"{bad[0]}: convert them, fetch them again, or take them out",
            )

    def items(self, split: str) -> Sequence[ImageFile]:
        """The examples of a split, in their order."""
        return self._splits[split]

    def empty_files(self) -> list[str]:
        """Paths of the images that are files without a byte."""
        return [
            item.path for items in self._splits.values() for item in items if not self._files.sizes[item.path]
        ]

    def decode(self, data: bytes) -> np.ndarray:
        """The pixels [height, width, channels] of an image's bytes, as training reads them."""
        return images.decode(data, self._channels or 3)

    def checked(self, item: ImageFile) -> tuple[bytes, str]:
        """The bytes of an image, and what is wrong with it; the latter is empty if it can be used."""
        try:
            data = self._files.read(item.path)
        except OSError as error:
            return b"", str(error)
        return data, images.problem_with(data, self._channels, self._shape)

    def close(self) -> None:
        """Closes the files."""
        self._files.close()


def _tensor(shape: tuple[int, ...], dtype: np.dtype) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=dtype.type, encoding=tfds.features.Encoding.BYTES)


def digest(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits, a hash of these bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]
