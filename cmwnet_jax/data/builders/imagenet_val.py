"""ImageNet's 50,000 validation images, to test on without the training images (Sec. 5, Tables 6, 12)."""

import re

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data.builders.base import FilesBuilder, check_classes, image_paths
from cmwnet_jax.data.builders.contents import ImageFile, ImageFiles
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error

_SYNSET = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_LABELS = "datasets/imagenet2012/validation_labels.txt"  # in tfds; line i is the class of image i


class ImagenetVal(FilesBuilder):
    """The split `val` alone, for `data.also_test`; classes are WordNet identifiers in alphabetical order.

    The images lie in folders that are named by their classes, of which some may be missing. Or they lie as they
    are published, in one folder under their numbers; then tfds knows their classes.
    """

    WANTS = (
        "ILSVRC2012_img_val.tar, or the folder (or .tar) of its images, as they are or by class, "
        "n01440764/ILSVRC2012_val_00000293.JPEG"
    )
    URL = "https://www.image-net.org"

    @classmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        folders = sorted(folder for folder in files.folders if _SYNSET.fullmatch(folder))
        names, items = _by_folder(files, folders) if folders else _by_number(files)
        if not items:
            raise raw_error(files.root, f"which has no validation image ({files.held()}): {cls.wanted()}")
        check_classes({"val": np.array([item.label for item in items])}, names, files.root)
        return ImageFiles(files, {"val": items}, names)


def _by_folder(files: RawFiles, folders: list[str]) -> tuple[list[str], list[ImageFile]]:
    items = [
        ImageFile(path, label) for label, folder in enumerate(folders) for path in image_paths(files, folder)
    ]
    return folders, items


def _by_number(files: RawFiles) -> tuple[list[str], list[ImageFile]]:
    found = {path: _NUMBERED.fullmatch(path.rpartition("/")[2]) for path in files.sizes}
    numbers = {path: int(match[1]) for path, match in found.items() if match}
    labels = tfds.core.tfds_path(_LABELS).read_text().split()
    beyond = [path for path, number in numbers.items() if not 1 <= number <= len(labels)]
    if beyond:
        raise raw_error(
            files.root,
            f"where {len(beyond)} images have numbers beyond 1 to {len(labels)}, the first {beyond[0]!r}: take "
            f"them out",
        )
    names = sorted({labels[number - 1] for number in numbers.values()})
    place = {name: label for label, name in enumerate(names)}
    in_order = sorted(numbers.items(), key=lambda item: item[1])
    return names, [ImageFile(path, place[labels[number - 1]]) for path, number in in_order]
