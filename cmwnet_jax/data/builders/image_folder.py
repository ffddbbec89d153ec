"""Images in a folder by split and class, or in a tar archive of one."""

import contextlib
import re
from collections.abc import Iterable

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data.builders import images
from cmwnet_jax.data.builders.base import (
    TEST_SPLITS,
    FilesBuilder,
    check_classes,
    check_splits,
    image_paths,
)
from cmwnet_jax.data.builders.contents import ImageFile, ImageFiles
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error


class ImageFolder(FilesBuilder):
    """`SPLIT/CLASS/*.jpg|png|...`, all grey or all RGB, stored as the encoded files.

    Classes are in the order of their folders' names: numerical if all are numbers, otherwise alphabetical.
    Examples are ordered by class and file name.

    Attributes:
        NUM_CLASSES: required number of classes; None for any.
        MIXED_CHANNELS: whether grey and colour images may be mixed, as they are on the web; images of other
            kinds are then converted to RGB, too.
    """

    # Version 1.0.0 ordered numerical class names alphabetically: 0, 1, 10, 11, 2.
    VERSION = tfds.core.Version("2.0.0")
    WANTS = "a folder (or .tar, .tar.gz) of train/CLASS/*.jpg or *.png, and the same in test, val or validation"
    NUM_CLASSES: int | None = None
    MIXED_CHANNELS = False

    @classmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        split_names = [split for split in ("train", *TEST_SPLITS) if split in files.folders]
        check_splits(split_names, files.root, cls.wanted(), files.held())
        class_names = _in_order(_classes(files, "train"))
        if not class_names:
            raise raw_error(files.root, f"which has no class in train: {cls.wanted()}")
        if cls.NUM_CLASSES not in (None, len(class_names)):
            raise raw_error(
                files.root, f"which has {len(class_names)} classes, expected {cls.NUM_CLASSES}: {cls.wanted()}"
            )
        for split in split_names:
            unknown = sorted(_classes(files, split) - set(class_names))
            if unknown:
                raise raw_error(
                    files.root,
                    f"whose split {split} has {len(unknown)} classes that "
                    f"train has not, the first {unknown[0]!r}: every class needs training images",
                )
        splits = {split: _split(files, split, class_names) for split in split_names}
        labels = {split: np.array([item.label for item in items], int) for split, items in splits.items()}
        check_classes(labels, class_names, files.root, cls.wanted() if cls.NUM_CLASSES else "")
        channels = None if cls.MIXED_CHANNELS else _channels(files, splits["train"])
        return ImageFiles(files, splits, class_names, channels=channels)


def _in_order(names: Iterable[str]) -> list[str]:
    """Class names in numerical order if all are numbers, otherwise in alphabetical order."""
    names = sorted(names)
    return sorted(names, key=int) if all(re.fullmatch("[0-9]+", name) for name in names) else names


def _channels(files: RawFiles, items: list[ImageFile]) -> int:
    """Channels of the first image that is grey or RGB; the other images must have the same."""
    for item in items:
        with contextlib.suppress(OSError):  # reported when all images are read
            if channels := images.channels_of(files.read(item.path)):
                return channels
    return 3


def _classes(files: RawFiles, split: str) -> set[str]:
    parts = (folder.split("/") for folder in files.folders)
    return {part[1] for part in parts if len(part) == 2 and part[0] == split}


def _split(files: RawFiles, split: str, class_names: list[str]) -> list[ImageFile]:
    labels = {name: label for label, name in enumerate(class_names)}
    paths = image_paths(files, split)
    elsewhere = [path for path in paths if path.count("/") != 2]
    if elsewhere:
        raise raw_error(
            files.root,
            f"where {len(elsewhere)} images do not lie in {split}/CLASS, "
            f"the first {elsewhere[0]!r}: move them or take them out",
        )
    # The paths are ascending, but "a b/" sorts before "a/" and class "a" before class "a b".
    return sorted(
        (ImageFile(p, labels[p.split("/")[1]]) for p in paths), key=lambda item: (item.label, item.path)
    )
