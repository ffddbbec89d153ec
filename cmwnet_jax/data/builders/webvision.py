"""WebVision 1.0: images from Google and Flickr for ImageNet's 1,000 classes (Sec. 5, Tables 6, 9, 12)."""

import re

import numpy as np

from cmwnet_jax.data.builders.base import FilesBuilder, check_classes
from cmwnet_jax.data.builders.contents import ImageFile, ImageFiles
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error

_VAL_LIST = "info/val_filelist.txt"
_SYNSETS = "info/synsets.txt"
_VAL_FOLDERS = ("val_images_256", "val_images")  # in the resized and in the original release


class Webvision(FilesBuilder):
    """Google's and Flickr's parts, in the lists' order: 2.4 million training images, 50,000 for validation.

    Attributes:
        LISTS: the lists of training images; their lines are a path and a label.
        NUM_CLASSES: C; lines with a label from here to 999 are ignored.
    """

    WANTS = (
        "the folder (or a .tar of it) with info/train_filelist_google.txt, info/train_filelist_flickr.txt, "
        "info/val_filelist.txt, google/, flickr/ and val_images_256/, of the 256 pixel release"
    )
    URL = "https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html"
    LISTS = ("info/train_filelist_google.txt", "info/train_filelist_flickr.txt")
    NUM_CLASSES = 1000

    @classmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        missing = [name for name in (*cls.LISTS, _VAL_LIST) if name not in files.sizes]
        if missing:
            raise raw_error(
                files.root, f"which has no {' and no '.join(missing)} ({files.held()}): {cls.wanted()}"
            )
        val_folder = next((folder for folder in _VAL_FOLDERS if folder in files.folders), _VAL_FOLDERS[0])
        splits = {
            "train": [item for name in cls.LISTS for item in cls._listed(files, name, "")],
            "val": cls._listed(files, _VAL_LIST, f"{val_folder}/"),
        }
        class_names = cls._class_names(files)
        labels = {split: np.array([item.label for item in items], int) for split, items in splits.items()}
        check_classes(labels, class_names, files.root, cls.wanted())
        return ImageFiles(files, splits, class_names)

    @classmethod
    def _class_names(cls, files: RawFiles) -> list[str]:
        """Lines of the synset list. They begin with an identifier, because some names occur twice (crane)."""
        lines = [line.strip() for line in files.lines(_SYNSETS)] if _SYNSETS in files.sizes else []
        numbers = [str(c) for c in range(cls.NUM_CLASSES)]
        return lines[: cls.NUM_CLASSES] if len(lines) >= cls.NUM_CLASSES else numbers

    @classmethod
    def _listed(cls, files: RawFiles, name: str, prefix: str) -> list[ImageFile]:
        items = []
        for number, line in enumerate(files.lines(name), 1):
            path, _, label = line.rpartition(" ")
            if not path or not re.fullmatch("[0-9]+", label) or int(label) >= Webvision.NUM_CLASSES:
                raise raw_error(
                    files.root,
                    f"where {name} has {line!r} in line {number}, expected a path and a label 0 to "
                    f"{Webvision.NUM_CLASSES - 1}: fetch the list again",
                )
            if int(label) < cls.NUM_CLASSES:
                items.append(ImageFile(prefix + path, int(label)))
        missing = [item.path for item in items if item.path not in files.sizes]
        if missing:
            raise raw_error(
                files.root,
                f"where {len(missing)} of the {len(items)} images that "
                f"{name} names are missing, the first {missing[0]!r}: {cls.wanted()}",
            )
        return items


class WebvisionMini(Webvision):
    """mini-WebVision: the first 50 classes of Google's part, about 66,000 training images."""

    WANTS = (
        "the folder (or a .tar of it) with info/train_filelist_google.txt, info/val_filelist.txt, google/ and "
        "val_images_256/, of the 256 pixel release (google_resized_256.tar and val_images_256.tar)"
    )
    LISTS = ("info/train_filelist_google.txt",)
    NUM_CLASSES = 50
