"""ANIMAL-10N: ten confusable animals, about 8% of the labels wrong (Sec. 5, Table 5)."""

import re

import numpy as np

from cmwnet_jax.data.builders.base import FilesBuilder, check_classes, image_paths
from cmwnet_jax.data.builders.contents import ImageFile, ImageFiles
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error

# Confusable pairs stand together; the labels are the numbers at the start of the file names.
_CLASSES = (
    *("cat", "lynx", "wolf", "coyote", "cheetah", "jaguar"),
    *("chimpanzee", "orangutan", "hamster", "guinea pig"),
)
_FOLDERS = {"train": "training", "test": "testing"}


class Animal10n(FilesBuilder):
    """64x64 RGB images whose label is in the file name, `LABEL_NUMBER.jpg`; ordered by file name."""

    WANTS = "the folder (or .tar, .tar.gz) with training/*.jpg and testing/*.jpg, unpacked from raw_image.zip"
    URL = "https://dm.kaist.ac.kr/datasets/animal-10n"

    @classmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        missing = [folder for folder in _FOLDERS.values() if folder not in files.folders]
        if missing:
            raise raw_error(files.root, f"which has no {missing[0]} folder ({files.held()}): {cls.wanted()}")
        splits = {split: _split(files, folder) for split, folder in _FOLDERS.items()}
        labels = {split: np.array([item.label for item in items], int) for split, items in splits.items()}
        check_classes(labels, _CLASSES, files.root, cls.wanted())
        return ImageFiles(files, splits, _CLASSES, channels=3, shape=(64, 64))


def _split(files: RawFiles, folder: str) -> list[ImageFile]:
    paths = image_paths(files, folder)
    labels = [re.fullmatch(r"[^/]+/(\d+)_[^/]*", path) for path in paths]
    wrong = [p for p, label in zip(paths, labels, strict=True) if not label or int(label[1]) >= len(_CLASSES)]
    if wrong:
        raise raw_error(
            files.root,
            f"where {len(wrong)} of {len(paths)} names in {folder} do not "
            f"begin with a label 0 to {len(_CLASSES) - 1} and '_', the first {wrong[0]!r}: rename them or take "
            "them out",
        )
    return [ImageFile(path, int(label[1])) for path, label in zip(paths, labels, strict=True)]
