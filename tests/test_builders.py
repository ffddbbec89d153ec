import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import raw_data
from PIL import Image

from cmwnet_jax.data import sources
from cmwnet_jax.data.builders import BUILDERS, base, contents
from cmwnet_jax.data.builders.webvision import Webvision
from cmwnet_jax.errors import UsageError


def refused(name: str, tmp_path: Path, raw_dir: Path, options: dict[str, str] | None = None) -> str:
    """The error's message, after a check that preparing left nothing behind."""
    data_dir = tmp_path / "data"
    with pytest.raises(UsageError) as error:
        sources.read(sources.open(name, str(data_dir), str(raw_dir), options=options))
    assert not data_dir.exists()
    message = str(error.value)
    assert "\n" not in message
    return message


def labels_of(records) -> list[int]:
    return [example["label"] for example in records]


def ids_of(records) -> list[str]:
    return [example["id"] for example in records]


class TestMnistFormat:
    def test_every_image_and_label_in_the_files_order(self, tmp_path):
        written = raw_data.mnist_folder(tmp_path / "raw")
        dataset = sources.load("mnist_format", str(tmp_path / "data"), str(tmp_path / "raw"))
        assert dataset.class_names == ("0", "1", "2")
        for split in ("train", "test"):
            images, labels = written[split]
            read = getattr(dataset, split)
            np.testing.assert_array_equal(read.images, images[..., None])
            np.testing.assert_array_equal(read.labels, labels)
            assert read.images.dtype == np.uint8 and read.labels.dtype == np.int32
            assert list(read.ids) == [f"{row:05d}" for row in range(len(labels))]

    def test_order_is_kept_across_shards(self, tmp_path, monkeypatch):
        monkeypatch.setattr(base, "_SHARD_EXAMPLES", 5)
        images, labels = raw_data.mnist_folder(tmp_path / "raw")["train"]
        source = sources.open("mnist_format", str(tmp_path / "data"), str(tmp_path / "raw"))
        assert len(list(Path(source.folder).glob("*train.array_record*"))) == 3
        np.testing.assert_array_equal([example["image"] for example in source.train], images[..., None])
        assert labels_of(source.train) == list(labels)

    @pytest.mark.parametrize(
        "spoil, message",
        [
            (lambda root: raw_data.truncate(root / "train-images-idx3-ubyte.gz"), "truncated or corrupt"),
            (lambda root: (root / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip"), "truncated or corrupt"),
            (
                lambda root: (root / "t10k-labels-idx1-ubyte.gz").unlink(),
                "t10k-labels-idx1-ubyte.gz is missing",
            ),
            (
                lambda root: shutil.copy(
                    root / "train-labels-idx1-ubyte.gz", root / "train-images-idx3-ubyte.gz"
                ),
                "begins with the bytes 00000801, expected 00000803",
            ),
            (
                lambda root: raw_data.write_idx(root / "train-labels-idx1-ubyte.gz", np.arange(11) % 3),
                "12 images and 'train-labels-idx1-ubyte.gz' 11 labels",
            ),
            (
                lambda root: raw_data.write_idx(root / "train-images-idx3-ubyte.gz", np.zeros((12, 4, 4))),
                r"training images are \(4, 4\) and test images \(5, 4\)",
            ),
            (
                lambda root: raw_data.write_idx(root / "t10k-labels-idx1-ubyte.gz", np.arange(6)),
                "test label is 5, beyond .* classes 0 to 2",
            ),
            (
                lambda root: raw_data.write_idx(root / "train-labels-idx1-ubyte.gz", np.arange(12) % 2 * 2),
                "1 of 3 classes have no example in train, the first '1'",
            ),
        ],
    )
    def test_refuses_files_that_cannot_be_used(self, tmp_path, spoil, message):
        raw_data.mnist_folder(tmp_path / "raw")
        spoil(tmp_path / "raw")
        assert re.search(message, refused("mnist_format", tmp_path, tmp_path / "raw"))

    def test_header_that_says_more_than_there_is(self, tmp_path):
        raw_data.mnist_folder(tmp_path / "raw")
        path = tmp_path / "raw" / "train-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2]))
        message = refused("mnist_format", tmp_path, tmp_path / "raw")
        assert "holds 10 bytes after its header, expected 12 for the shape (12,)" in message


class TestImageFolder:
    @pytest.mark.parametrize("form", ["folder", "a.tar", "a.tar.gz", "a.tgz", "nested.tar.gz"])
    def test_keeps_the_bytes_and_orders_by_class_and_name(self, tmp_path, form):
        folder = raw_data.image_folder(tmp_path / "raw", classes=("a", "a b", "b"))
        raw_data.write(folder / "readme.txt", b"not an image")
        raw_data.write(folder / "train" / "a" / ".hidden.jpg", b"not an image")
        raw_dir = folder
        if form != "folder":
            raw_dir = raw_data.pack(folder, tmp_path / form, top="images-master/" if "nested" in form else "")
        source = sources.open("image_folder", str(tmp_path / "data"), str(raw_dir), decode=False)
        assert source.class_names == ("a", "a b", "b")
        assert labels_of(source.train) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert ids_of(source.test) == [f"test/{c}/000{k}.jpg" for c in ("a", "a b", "b") for k in range(2)]
        for split in ("train", "test"):
            for example in source.splits[split]:
                assert example["image"] == (folder / example["id"]).read_bytes()

    @pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
    def test_png_pixels_come_back(self, tmp_path, mode, channels):
        folder = raw_data.image_folder(tmp_path / "raw", mode=mode, format="PNG")
        dataset = sources.load("image_folder", str(tmp_path / "data"), str(folder))
        assert dataset.train.images.shape == (9, 8, 6, channels)
        for image, name in zip(dataset.train.images, dataset.train.ids, strict=True):
            np.testing.assert_array_equal(
                image.reshape(8, 6, -1).squeeze(), np.asarray(Image.open(folder / name))
            )

    def test_test_split_may_be_called_validation(self, tmp_path):
        folder = raw_data.image_folder(tmp_path / "raw", splits={"train": 2, "validation": 1})
        source = sources.open("image_folder", str(tmp_path / "data"), str(folder))
        assert source.test_split == "validation" and len(source.test) == 3

    @pytest.mark.parametrize(
        "spoil, message",
        [
            (lambda root: shutil.rmtree(root / "train"), "has no train split"),
            (lambda root: raw_data.empty_folder(root / "train"), "has no class in train"),
            (lambda root: shutil.rmtree(root / "test"), "has no test or val or validation split"),
            (
                lambda root: raw_data.empty_folder(root / "train" / "dog"),
                "1 of 3 classes have no example in train, the first 'dog'",
            ),
            (
                lambda root: shutil.rmtree(root / "test" / "dog"),
                "1 of 3 classes have no example in test, the first 'dog'",
            ),
            (
                lambda root: shutil.copytree(root / "test" / "dog", root / "test" / "fox"),
                "split test has 1 classes that train has not, the first 'fox'",
            ),
            (
                lambda root: raw_data.write(root / "train" / "dog" / "more" / "1.jpg", b""),
                "1 images do not lie in train/CLASS, the first 'train/dog/more/1.jpg'",
            ),
            (
                lambda root: [raw_data.truncate(root / "train" / name / "0001.jpg") for name in ("dog", "eel")],
                r"2 of the first 9 images of the split train .*, the first 'train/dog/0001.jpg': .*trunc",
            ),
            (
                lambda root: raw_data.write(root / "test" / "eel" / "0000.jpg", b"GIF89a"),
                r"1 of the first 6 images of the split test .*'test/eel/0000.jpg': not a readable JPEG or PNG",
            ),
            (
                lambda root: raw_data.write(
                    root / "train" / "dog" / "0.jpg", raw_data.image_bytes(0, mode="L")
                ),
                "'train/dog/0.jpg': its pixels are L, expected RGB as the others",
            ),
            (
                lambda root: raw_data.write(
                    root / "train" / "cat" / "0000.jpg", raw_data.image_bytes(0, mode="RGBA", format="PNG")
                ),
                "the first 'train/cat/0000.jpg': its pixels are RGBA",
            ),
        ],
    )
    def test_refuses_images_that_cannot_be_used(self, tmp_path, spoil, message):
        folder = raw_data.image_folder(tmp_path / "raw")
        spoil(folder)
        assert re.search(message, refused("image_folder", tmp_path, folder))

    def test_refuses_truncated_archives(self, tmp_path):
        folder = raw_data.image_folder(tmp_path / "raw")
        for name in ("a.tar", "a.tar.gz"):
            archive = raw_data.pack(folder, tmp_path / name)
            archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
            assert "a.tar" in refused("image_folder", tmp_path, archive)

    def test_refuses_what_is_no_folder(self, tmp_path):
        assert "does not exist" in refused("image_folder", tmp_path, tmp_path / "nowhere")
        (tmp_path / "a.zip").write_bytes(b"")
        assert "is of another kind" in refused("image_folder", tmp_path, tmp_path / "a.zip")


class TestAnimal10n:
    def test_label_is_in_the_name(self, tmp_path):
        folder = raw_data.animal_folder(tmp_path / "raw")
        dataset = sources.load("animal10n", str(tmp_path / "data"), str(folder))
        assert dataset.class_names[:2] == ("cat", "lynx") and dataset.num_classes == 10
        assert dataset.train.images.shape == (20, 64, 64, 3) and len(dataset.test) == 10
        assert dataset.train.labels.tolist() == [
            int(Path(name).name.split("_")[0]) for name in dataset.train.ids
        ]

    @pytest.mark.parametrize(
        "spoil, message",
        [
            (lambda root: shutil.rmtree(root / "testing"), "no testing folder.*https://dm.kaist"),
            (
                lambda root: shutil.copy(root / "training" / "0_10.jpg", root / "training" / "10_1.jpg"),
                "1 of 21 names in training do not begin with a label 0 to 9 .*'training/10_1.jpg'",
            ),
            (
                lambda root: shutil.copy(root / "training" / "0_10.jpg", root / "training" / "cat.jpg"),
                "1 of 21 names .*'training/cat.jpg'",
            ),
            (
                lambda root: (root / "testing" / "3_10.jpg").unlink(),
                "no example in test, the first 'coyote'",
            ),
            (
                lambda root: raw_data.write(root / "training" / "1_10.jpg", raw_data.image_bytes(0, (32, 64))),
                "'training/1_10.jpg': it is 32x64, expected 64x64",
            ),
        ],
    )
    def test_refuses(self, tmp_path, spoil, message):
        folder = raw_data.animal_folder(tmp_path / "raw")
        spoil(folder)
        assert re.search(message, refused("animal10n", tmp_path, folder))


class TestWebvision:
    def test_mini_is_the_first_fifty_classes_of_googles_list(self, tmp_path):
        folder = raw_data.webvision_folder(tmp_path / "raw", classes=50, beyond=3)
        source = sources.open("webvision_mini", str(tmp_path / "data"), str(folder))
        assert source.num_classes == 50 and source.test_split == "val"
        assert labels_of(source.train) == list(range(49, -1, -1)) == labels_of(source.test)  # the lists' order
        assert ids_of(source.train)[0] == "google/q0049/a.jpg"
        assert ids_of(source.test)[0] == "val_images_256/val000049.jpg"

    def test_full_has_both_parts_and_names(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Webvision, "NUM_CLASSES", 4)
        folder = raw_data.webvision_folder(tmp_path / "raw", classes=4, flickr=True)
        raw_data.write(folder / "info" / "synsets.txt", b"n01 crane\nn02 crane\nn03 tench, fish\nn04 wok\n")
        source = sources.open("webvision", str(tmp_path / "data"), str(folder))
        assert [name.split("/")[0] for name in ids_of(source.train)] == ["google"] * 4 + ["flickr"] * 4
        assert source.class_names == ("n01 crane", "n02 crane", "n03 tench, fish", "n04 wok")
        assert source.train[0]["image"].shape == (8, 6, 3)

    def test_grey_and_cmyk_images_among_colour_ones_become_rgb(self, tmp_path):
        folder = raw_data.webvision_folder(tmp_path / "raw", classes=50)
        raw_data.write(folder / "google" / "q0049" / "a.jpg", raw_data.image_bytes(0, mode="L"))
        raw_data.write(folder / "google" / "q0048" / "a.jpg", raw_data.image_bytes(0, mode="CMYK"))
        source = sources.open("webvision_mini", str(tmp_path / "data"), str(folder))
        assert [source.train[row]["image"].shape for row in range(2)] == [(8, 6, 3)] * 2

    @pytest.mark.parametrize(
        "spoil, message",
        [
            (
                lambda root: (root / "info" / "val_filelist.txt").unlink(),
                r"no info/val_filelist.txt \(it holds google, info, val_images_256\).*https://data",
            ),
            (
                lambda root: [(root / "google" / f"q00{c}" / "a.jpg").unlink() for c in (12, 31)],
                "2 of the 50 images that info/train_filelist_google.txt names .* first 'google/q0031/",
            ),
            (
                lambda root: shutil.rmtree(root / "val_images_256"),
                "50 of the 50 images that info/val_filelist.txt names .* first 'val_images_256/val",
            ),
            (
                lambda root: raw_data.write(
                    root / "info" / "val_filelist.txt", b"val000001.jpg 0\nval2.jpg 1000\n"
                ),
                "'val2.jpg 1000' in line 2, expected a path and a label 0 to 999",
            ),
            (
                lambda root: raw_data.write(root / "info" / "val_filelist.txt", b"val000000.jpg 0\n"),
                "49 of 50 classes have no example in val, the first '1'",
            ),
        ],
    )
    def test_refuses(self, tmp_path, spoil, message):
        folder = raw_data.webvision_folder(tmp_path / "raw", classes=50)
        spoil(folder)
        assert re.search(message, refused("webvision_mini", tmp_path, folder))


@pytest.mark.parametrize("name, classes", [("web_aircraft", 100), ("web_bird", 200), ("web_car", 196)])
def test_webfg(tmp_path, name, classes):
    names = tuple(f"{c:03d}.Kind of {c}" for c in range(classes))
    folder = raw_data.image_folder(tmp_path / "raw", classes=names, splits={"train": 1, "val": 1})
    archive = raw_data.pack(folder, tmp_path / "web.tar.gz", top="web/")
    source = sources.open(name, str(tmp_path / "data"), str(archive))
    assert source.class_names == names and source.test_split == "val"
    assert labels_of(source.train) == list(range(classes))
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(folder / "train" / names[-1])
    message = refused(name, tmp_path, folder)
    assert f"has {classes - 1} classes, expected {classes}" in message and "weblyFG-dataset" in message


def test_other_raw_files_are_never_taken_for_the_prepared_ones(tmp_path):
    first, second = (raw_data.mnist_folder(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b")))
    data_dir = str(tmp_path / "data")
    a = sources.load("mnist_format", data_dir, str(tmp_path / "a"))
    np.testing.assert_array_equal(sources.load("mnist_format", data_dir).train.images, a.train.images)
    b = sources.load("mnist_format", data_dir, str(tmp_path / "b"))
    np.testing.assert_array_equal(a.train.images[..., 0], first["train"][0])
    np.testing.assert_array_equal(b.train.images[..., 0], second["train"][0])
    with pytest.raises(UsageError, match=r"of which 2 are in .*Prepared from .*a; Prepared from .*b\)"):
        sources.load("mnist_format", data_dir)
    # The same files elsewhere are the same data set.
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    copied = sources.open("mnist_format", data_dir, str(tmp_path / "c"))
    assert copied.folder == sources.open("mnist_format", data_dir, str(tmp_path / "a")).folder


@pytest.mark.parametrize(
    "name", [name for name in sources.DATASETS if getattr(BUILDERS.get(name), "WANTS", "")]
)
def test_says_which_files_it_wants_where_and_from_where(tmp_path, name):
    with pytest.raises(UsageError) as error:
        sources.open(name, str(tmp_path / "data"), needed=())
    message = str(error.value)
    assert "is not prepared in" in message and "--config.data.raw_dir" in message
    assert "https://" in message or name in ("image_folder", "arrays", "csv")
    assert not (tmp_path / "data").exists()


def test_failure_leaves_other_prepared_sets_alone(tmp_path):
    data_dir = tmp_path / "data"
    good, bad = (raw_data.image_folder(tmp_path / name) for name in ("good", "bad"))
    sources.open("image_folder", str(data_dir), str(good))
    before = sorted(data_dir.rglob("*"))
    raw_data.truncate(bad / "test" / "eel" / "0001.jpg")
    with pytest.raises(UsageError, match="1 of the first 6 images of the split test"):
        sources.open("image_folder", str(data_dir), str(bad))
    assert sorted(data_dir.rglob("*")) == before


def test_prepares_and_reads_without_tensorflow(tmp_path):
    raw_data.mnist_folder(tmp_path / "mnist")
    raw_data.image_folder(tmp_path / "images")
    program = """
import sys
from cmwnet_jax.data import sources
for name, raw_dir in (("digits", ""), ("mnist_format", "mnist"), ("image_folder", "images")):
    for repeat in range(2):  # prepared by the first, only read by the second
        sources.load(name, "data", raw_dir)
assert "tensorflow" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, timeout=100)


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = raw_data.image_folder(tmp_path / "raw")
    monkeypatch.setattr(contents.images, "problem_with", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sources.open("image_folder", str(tmp_path / "data"), str(folder))
    assert not (tmp_path / "data").exists()


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    raw_data.mnist_folder(tmp_path / "raw")
    prepare = BUILDERS["mnist_format"].download_and_prepare

    def late(builder, **options):
        prepare(builder, **options)
        raise OSError("Directory not empty")  # what renaming onto the other's folder raises

    monkeypatch.setattr(BUILDERS["mnist_format"], "download_and_prepare", late)
    assert len(sources.load("mnist_format", str(tmp_path / "data"), str(tmp_path / "raw")).train) == 12
