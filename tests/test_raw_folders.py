"""What lies in a folder of images: read, passed over as surely no example, or refused with counts."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import raw_data
from test_builders import ids_of, labels_of, refused

from cmwnet_jax.data import sources
from cmwnet_jax.data.builders import raw_files
from cmwnet_jax.errors import UsageError


@pytest.mark.parametrize("name, makes", [("image_folder", "train/dog"), ("animal10n", "training")])
def test_images_by_any_of_their_names(tmp_path, name, makes):
    make = raw_data.image_folder if name == "image_folder" else raw_data.animal_folder
    folder = make(tmp_path / "raw")
    size = (8, 6) if name == "image_folder" else (64, 64)
    for number, (suffix, format) in enumerate(
        [
            *((".JPEG", "JPEG"), (".JPG", "JPEG"), (".jfif", "JPEG"), (".jpe", "JPEG"), (".webp", "WEBP")),
            *((".WebP", "WEBP"), (".bmp", "BMP"), (".BMP", "BMP"), (".tif", "TIFF"), (".TIFF", "TIFF")),
            (".Png", "PNG"),
        ]
    ):
        raw_data.write(folder / makes / f"5_{number}{suffix}", raw_data.image_bytes(0, size, format=format))
    before = 9 if name == "image_folder" else 20
    source = sources.open(name, str(tmp_path / "data"), str(folder))
    assert len(source.train) == before + 11
    assert all(example["image"].shape == (*size, 3) for example in source.train)


def test_a_gif_is_counted_not_passed_over(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    raw_data.write(folder / "train" / "dog" / "1.gif", raw_data.image_bytes(0, mode="RGB", format="GIF"))
    assert "where 1 of the first 10 images of the split train cannot be used" in refused(
        "image_folder", tmp_path, folder
    )


@pytest.mark.parametrize("name, makes", [("image_folder", "train/dog"), ("animal10n", "training")])
def test_files_that_may_be_examples_are_counted(tmp_path, name, makes):
    make = raw_data.image_folder if name == "image_folder" else raw_data.animal_folder
    folder = make(tmp_path / "raw")
    for odd in ("a.svg", "b.heic", "c.npy", "d", ".hidden", "notes.txt", "Thumbs.db", "desktop.ini", "LICENSE"):
        raw_data.write(folder / makes / odd, b"?")
    split, total = makes.split("/")[0], 17 if name == "image_folder" else 28
    assert (
        f"where 4 of {total} files in {split} are not images that can be read (.jpg, .jpeg, .jpe, .jfif, .png, "
        f".webp, .bmp, .gif, .tif, .tiff): '{makes}/a.svg', '{makes}/b.heic', '{makes}/c.npy' and so on; "
    ) in refused(name, tmp_path, folder)


def test_hidden_folders_are_no_classes(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    for hidden in (".ipynb_checkpoints", "__MACOSX", ".git"):
        shutil.copytree(folder / "train" / "dog", folder / "train" / hidden)
        shutil.copytree(folder / "train" / "dog", folder / "train" / "dog" / hidden)
    source = sources.open("image_folder", str(tmp_path / "data"), str(folder))
    assert source.class_names == ("cat", "dog", "eel") and len(source.train) == 9


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make, message",
    [
        (make_fifo, "a named pipe, expected a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, expected a regular file"),
        (lambda path: path.symlink_to("nowhere.jpg"), "a link to 'nowhere.jpg', which does not exist"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to(path.parent), "a link to a folder that it lies in"),
        (lambda path: path.symlink_to(path.parent.parent), "a link to a folder that it lies in"),
    ],
)
@pytest.mark.parametrize("name", ["image_folder", "animal10n", "webvision_mini"])
def test_what_is_no_file(tmp_path, name, make, message):
    makers = {
        "image_folder": raw_data.image_folder,
        "animal10n": raw_data.animal_folder,
        "webvision_mini": lambda root: raw_data.webvision_folder(root, classes=50),
    }
    folder = makers[name](tmp_path / "raw")
    place = next(path for path in sorted(folder.rglob("*.jpg")))
    total = sum(path.is_file() for path in folder.rglob("*"))
    place.unlink()
    make(place)
    name_of = place.relative_to(folder).as_posix()
    assert f"where 1 of {total} files cannot be used, the first {name_of!r}: {message}" in refused(
        name, tmp_path, folder
    )


def test_links_to_files_and_folders_are_followed(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    (folder / "train" / "eel").rename(tmp_path / "elsewhere")
    (folder / "train" / "eel").symlink_to(tmp_path / "elsewhere")
    (folder / "train" / "dog" / "0009.jpg").symlink_to(folder / "train" / "dog" / "0000.jpg")
    assert len(sources.open("image_folder", str(tmp_path / "data"), str(folder)).train) == 10


def test_folders_that_cannot_be_listed_are_not_taken_for_empty(tmp_path, monkeypatch):
    folder = raw_data.image_folder(tmp_path / "raw")
    scandir = os.scandir

    def forbidden(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(raw_files.os, "scandir", forbidden)
    with pytest.raises(
        UsageError, match=r"where 2 of 12 files cannot be used, the first 'test/dog': Permission"
    ):
        raw_files.RawFiles(folder)


@pytest.mark.parametrize("what", ["file", "class"])
def test_names_that_are_not_utf8(tmp_path, what):
    folder = raw_data.image_folder(tmp_path / "raw")
    dog = folder / "train" / "dog"
    if what == "file":
        (dog / "0000.jpg").rename(os.fsdecode(os.fsencode(dog / "caf") + b"\xe9.jpg"))
    else:
        dog.rename(os.fsdecode(os.fsencode(folder / "train" / "chi") + b"\xe9n"))
    assert r"are not UTF-8, the first 'train/" in refused("image_folder", tmp_path, folder)


def test_a_folder_whose_own_name_is_not_utf8(tmp_path):
    folder = raw_data.image_folder(Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9")))
    assert len(sources.open("image_folder", str(tmp_path / "data"), str(folder)).train) == 9
    assert len(sources.open("image_folder", str(tmp_path / "data")).train) == 9


@pytest.mark.parametrize("name", ["image_folder", "animal10n", "mnist_format", "webvision_mini"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"PK\3\4"),
        make_fifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
    ],
)
@pytest.mark.parametrize("place", ["raw", "raw.tar", "raw.tar.gz"])
def test_raw_dirs_of_every_other_kind(tmp_path, name, make, place):
    make(tmp_path / place)
    assert refused(name, tmp_path, tmp_path / place).startswith("data.raw_dir is ")


@pytest.mark.parametrize("raw_dir", ["x" * 300, "~nobody-of-this-name/x", "a\0b", "caf\udce9"])
def test_raw_dirs_that_no_file_can_have(tmp_path, monkeypatch, raw_dir):
    monkeypatch.chdir(tmp_path)
    assert refused("image_folder", tmp_path, raw_dir).startswith("data.raw_dir is ")


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    names = tuple(str(c) for c in range(12))
    folder = raw_data.image_folder(tmp_path / "raw", classes=names, splits={"train": 1, "test": 1})
    source = sources.open("image_folder", str(tmp_path / "data"), str(folder))
    assert source.class_names == names and labels_of(source.train) == list(range(12))
    assert ids_of(source.test)[10] == "test/10/0000.jpg"


def test_what_was_prepared_in_another_order_is_not_read(tmp_path):
    """The version says by which rule classes are numbered: an older one's set has to be prepared again."""
    folder = raw_data.image_folder(tmp_path / "raw")
    old = Path(sources.open("image_folder", str(tmp_path / "data"), str(folder)).folder)
    assert old.name == "2.0.0"
    old.rename(old.with_name("1.0.0"))
    with pytest.raises(UsageError, match="is not prepared in .*set --config.data.raw_dir"):
        sources.open("image_folder", str(tmp_path / "data"))
    assert sources.open("image_folder", str(tmp_path / "data"), str(folder)).folder.endswith("2.0.0")


@pytest.mark.parametrize("odd", ["dog ", " dog", "d\nog", "do\u2028g", "do\x85g"])
def test_class_names_that_tfds_would_read_otherwise(tmp_path, odd):
    folder = raw_data.image_folder(tmp_path / "raw", classes=("cat", odd))
    message = refused("image_folder", tmp_path, folder)
    assert f"where the 2 class names have {odd!r}" in message


@pytest.mark.parametrize("content", [b"caf\xe9.jpg 0\n", b"val000001.jpg \xc2\xb2\n", b"val000001.jpg -1\n"])
@pytest.mark.parametrize("name", ["val_filelist", "train_filelist_google"])
def test_lists_that_cannot_be_read(tmp_path, name, content):
    folder = raw_data.webvision_folder(tmp_path / "raw", classes=50)
    raw_data.write(folder / "info" / f"{name}.txt", content)
    assert f"info/{name}.txt" in refused("webvision_mini", tmp_path, folder)


def test_image_bytes_are_kept(tmp_path):
    """What is made of an image is decided when it is read: no conversion is stored."""
    folder = raw_data.image_folder(tmp_path / "raw", format="WEBP")
    source = sources.open("image_folder", str(tmp_path / "data"), str(folder), decode=False)
    for example in source.train:
        assert example["image"] == (folder / example["id"]).read_bytes()
    assert np.all([len(example["image"]) for example in source.train])
