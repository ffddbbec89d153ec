"""Tiny raw files of the shapes that the published data sets have, for the tests of what reads them."""

import gzip
import io
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cmwnet_jax.data.builders.image_folder import ImageFolder


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def mnist_folder(
    root: Path, classes: int = 3, train: int = 12, test: int = 6, seed: int = 0
) -> dict[str, tuple]:
    """Writes the four files; returns split -> (images, labels)."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    splits = {}
    for split, prefix, size in (("train", "train", train), ("test", "t10k", test)):
        splits[split] = rng.integers(256, size=(size, 5, 4)), rng.permutation(np.arange(size) % classes)
        write_idx(root / f"{prefix}-images-idx3-ubyte.gz", splits[split][0])
        write_idx(root / f"{prefix}-labels-idx1-ubyte.gz", splits[split][1])
    return splits


def image_bytes(seed: int, size: tuple[int, int] = (8, 6), mode: str = "RGB", format: str = "JPEG") -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(256, size=(*size, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, format)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def image_folder(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog", "eel"),
    splits: dict[str, int] | None = None,
    **image,
) -> Path:
    """Writes SPLIT/CLASS/NNNN.jpg, `splits` saying how many a class."""
    seed = 0
    for split, size in (splits or {"train": 3, "test": 2}).items():
        for name in classes:
            for number in range(size):
                seed += 1
                write(root / split / name / f"{number:04d}.jpg", image_bytes(seed, **image))
    return root


def pack(folder: Path, archive: Path, top: str = "") -> Path:
    """A tar archive of a folder, gzipped where its name says so; files in descending order."""
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            tar.add(path, f"{top}{path.relative_to(folder)}", recursive=False)
    return archive


def animal_folder(root: Path, size: tuple[int, int] = (64, 64), train: int = 2) -> Path:
    data = image_bytes(0, size)
    for folder, number in (("training", train), ("testing", 1)):
        for label in range(10):
            for k in range(number):
                write(root / folder / f"{label}_{k + 10}.jpg", data)
    return root


def webvision_folder(root: Path, classes: int, flickr: bool = False, beyond: int = 0, google: int = 1) -> Path:
    """One image a class in each list, `google` in Google's; the last `beyond` classes are 999 downwards."""
    data = image_bytes(0)
    labels = [*range(classes), *(999 - k for k in range(beyond))]
    lists = {"train_filelist_google": ["google/q{:04d}/" + f"{'abcdefgh'[k]}.jpg" for k in range(google)]}
    lists["val_filelist"] = ["val{:06d}.jpg"]
    if flickr:
        lists["train_filelist_flickr"] = ["flickr/q{:04d}/b.jpg"]
    for name, patterns in lists.items():
        of_label = [(pattern.format(label), label) for label in labels for pattern in patterns]
        paths = [path for path, _ in of_label]
        lines = [f"{path} {label}\n" for path, label in of_label]
        write(root / "info" / f"{name}.txt", "".join(reversed(lines)).encode())
        for path in paths:
            write(root / ("val_images_256" if name == "val_filelist" else "") / path, data)
    return root


def add_imagenet(web: Path, root: Path, labels: Iterable[int], number: int = 2) -> Path:
    """Names WebVision's classes by synsets, and writes `number` ImageNet validation images of some of them."""
    synsets = [f"n{c:08d}" for c in range(1000)]
    write(web / "info/synsets.txt", "".join(f"{name} thing {name}\n" for name in synsets).encode())
    for c in labels:
        for k in range(number):
            name = f"{synsets[c]}/ILSVRC2012_val_{number * c + k + 1:08d}.JPEG"
            write(root / name, image_bytes(c, (9, 12)))
    return root


class ImagenetLt(ImageFolder, skip_registration=True):
    """Stands for tfds's builder of this name, which wants all of ImageNet's archives."""


def prepared_imagenet_lt(data_dir: Path, raw: Path, sizes: Sequence[int]) -> None:
    """Prepares a set as tfds's `imagenet_lt`, with so many training images of each class and one to test on."""
    for c, size in enumerate(sizes):
        for split, count in (("train", size), ("test", 1)):
            for k in range(count):
                write(raw / split / f"n{c:08d}" / f"{k:04d}.jpg", image_bytes(50 * c + k, (9, 12)))
    builder = ImagenetLt(data_dir=str(data_dir), raw_dir=str(raw))
    builder.download_and_prepare()
    made = Path(builder.data_dir)
    made.rename(data_dir / "imagenet_lt" / made.name)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
