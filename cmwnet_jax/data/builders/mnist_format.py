"""Files in MNIST's format: MNIST, Fashion-MNIST, KMNIST and sets packed like them."""

import gzip
import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cmwnet_jax.array_files import check_unpacked, reading
from cmwnet_jax.data.builders.base import LocalBuilder, check_classes
from cmwnet_jax.data.builders.contents import InMemory, digest
from cmwnet_jax.data.builders.raw_files import raw_error
from cmwnet_jax.errors import UsageError

_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
_UBYTE = 8  # the format's code for unsigned bytes, the only type of images and labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an array of bytes in MNIST's gzipped idx format.

    The format: two zero bytes, the type, the number of dimensions, each dimension as a big-endian 4-byte
    integer, then the numbers.

    Args:
        path: the file.
        dimensions: the required number, 3 for images and 1 for labels.

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        UsageError: the file is truncated, corrupt, or not of this format.
    """
    with reading(path, f"{str(path)!r} is truncated or corrupt", "fetch it again") as file:
        size = file.stat().st_size
        with gzip.open(file) as unpacked:
            return _array(path, unpacked, size, dimensions)


def _array(path: Path, unpacked: BinaryIO, packed_size: int, dimensions: int) -> np.ndarray:
    """As `read_idx`; unpacks no more than the header says, and only if that size is plausible."""
    header = unpacked.read(4 * (1 + dimensions))
    if len(header) < 4 * (1 + dimensions) or header[:4] != bytes([0, 0, _UBYTE, dimensions]):
        raise UsageError(
            f"{str(path)!r} begins with the bytes {header[:4].hex()}, expected "
            f"{bytes([0, 0, _UBYTE, dimensions]).hex()} for {dimensions}-dimensional bytes: it is not in "
            "MNIST's format"
        )
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", dimensions, offset=4))
    wanted = math.prod(shape)
    check_unpacked(wanted, packed_size)
    data = unpacked.read(wanted)
    more = len(unpacked.read(1))
    if len(data) < wanted or more:
        held = f"more than {wanted}" if more else len(data)
        raise UsageError(
            f"{str(path)!r} holds {held} bytes after its header, expected {wanted} for the shape {shape} that "
            "it says: fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


class MnistFormat(LocalBuilder):
    """Grey images and labels from four gzipped idx files, in the files' order; the id is the row.

    The number of classes is taken from the training labels, and each class must have examples.
    """

    WANTS = f"a folder with {', '.join(name for names in _FILES.values() for name in names)}"
    URL = "https://ossci-datasets.s3.amazonaws.com/mnist (MNIST) or https://github.com/zalandoresearch/fashion-mnist"

    @classmethod
    def scan(cls, root: Path) -> InMemory:
        """Reads the four files.

        Args:
            root: their folder.

        Raises:
            UsageError: a file is missing or cannot be used, or the files do not match each other.
        """
        missing = [name for names in _FILES.values() for name in names if not os.path.lexists(root / name)]
        if missing:
            raise raw_error(root, f"where {', '.join(missing)} is missing: {cls.wanted()}")
        splits = {split: cls._split(*(root / name for name in names)) for split, names in _FILES.items()}
        train_images, train_labels = splits["train"]
        test_images, test_labels = splits["test"]
        class_names = [str(c) for c in range(int(train_labels.max()) + 1)]
        if train_images.shape[1:] != test_images.shape[1:]:
            raise raw_error(
                root,
                f"whose training images are {train_images.shape[1:3]} and test "
                f"images {test_images.shape[1:3]}, expected one shape: take both from the same data set",
            )
        if test_labels.max() >= len(class_names):
            raise raw_error(
                root,
                f"where a test label is {test_labels.max()}, beyond the "
                f"training labels' classes 0 to {len(class_names) - 1}: take both from the same data set",
            )
        check_classes({"train": train_labels}, class_names, root)
        content = ((root / name).read_bytes() for names in _FILES.values() for name in names)
        return InMemory(splits, class_names, key=digest(content))

    @staticmethod
    def _split(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels) or not len(labels):
            raise UsageError(
                f"{str(images_path)!r} has {len(images)} images and {labels_path.name!r} {len(labels)} labels, "
                "expected one label per image and at least one: take both from the same data set"
            )
        return images[..., None], labels
