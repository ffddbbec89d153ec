"""Random access to the examples of a prepared data set."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cmwnet_jax.data import checksums
from cmwnet_jax.data.builders import images
from cmwnet_jax.errors import UsageError, first_line

_ID_FEATURES = ("id", "file_name")  # names that tfds's own builders use


class ExampleReader:
    """Random-access reader of one split, usable as Grain's `MapDataset.source`.

    `reader[i]` is a dictionary: `image` [height, width, channels] uint8 (encoded bytes if `decode` is
    false) or another kind of input (`data.kinds`), `label` int, `id` and `path` str if the set has them, and
    the set's other features unchanged. The reader can be pickled for worker processes.

    Attributes:
        split: name of the split.
        image_size: (height, width) of every image, or the shape of every input of another kind; None if images
            may differ.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, decode: bool = True):
        """Opens a split.

        Args:
            builder: builder of a prepared set.
            split: name of the split.
            decode: whether to decode images.

        Raises:
            UsageError: files are missing or damaged, here and when examples are read.
        """
        feature = builder.info.features["image"]
        self.split, self._decode, self._builder = split, decode, builder
        self.image_size = None if None in feature.shape[:2] else tuple(feature.shape[:2])
        self._channels = feature.shape[-1] if isinstance(feature, tfds.features.Image) else None
        decoders = {} if self._channels is None else {"image": tfds.decode.SkipDecoding()}
        with self._undamaged():
            self._source = builder.as_data_source(split=split, decoders=decoders)

    def encoded(self) -> "ExampleReader":
        """The same split with images as stored, encoded bytes."""
        return ExampleReader(self._builder, self.split, decode=False)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        with self._undamaged():
            return self._example(self._source[row])

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The examples at these rows; faster than reading them one by one."""
        with self._undamaged():
            return [self._example(example) for example in self._source.__getitems__(rows)]

    def read(self) -> Iterator[tuple[range, list[dict[str, Any]]]]:
        """Yields all examples in order, in batches with their rows; then compares their checksums.

        Raises:
            UsageError: a file is damaged, or labels or ids have changed since the set was prepared.
        """
        digest = checksums.Digest()
        for start in range(0, len(self), 1024):
            rows = range(start, min(start + 1024, len(self)))
            examples = self.__getitems__(list(rows))
            digest.add(examples)
            yield rows, examples
        checksums.settle(Path(self._builder.data_dir), self.split, digest)

    @contextlib.contextmanager
    def _undamaged(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # ArrayRecord, tfds and Pillow share no other base class of errors
            raise checksums.damaged(self._builder.data_dir, first_line(error)) from error

    def _example(self, example: dict[str, Any]) -> dict[str, Any]:
        example_id = next((example.pop(name) for name in _ID_FEATURES if name in example), None)
        if example_id is not None:
            example["id"] = example_id.decode()
        if "path" in example:
            example["path"] = example["path"].decode()
        if self._channels is not None and self._decode:
            example["image"] = images.decode(example["image"], self._channels)
        return example
