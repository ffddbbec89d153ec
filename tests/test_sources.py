import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import raw_data
import tensorflow_datasets as tfds

from cmwnet_jax.data import prepare, sources
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.errors import UsageError


def prepare_like_tfds(name: str, data_dir: Path, size: int = 12, classes: int = 10) -> np.ndarray:
    """Prepares what tfds would call `name`: shuffled PNGs with CIFAR-10N's features; returns all images."""
    images = [raw_data.image_bytes(seed, (4, 4), format="PNG") for seed in range(size)]

    class Stand(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=classes)
            features = {
                "image": tfds.features.Image(shape=(4, 4, 3)),
                "label": label,
                "id": tfds.features.Text(),
            }
            columns = {"worse_label": label, "random_label1": label, "worker1_id": np.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({**features, **columns})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples("train"), "test": self._generate_examples("test")}

        def _generate_examples(self, split):
            for row, image in enumerate(images):
                yield (
                    row,
                    {
                        "image": image,
                        "label": row % classes,
                        "id": f"{split}_{row:05d}",
                        "worse_label": (row + 1) % classes,
                        "random_label1": row % classes,
                        "worker1_id": 100 + row,
                    },
                )

    Stand.name = name
    Stand(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return images


class TestOpen:
    def test_random_access_to_decoded_examples(self, tmp_path):
        folder = raw_data.image_folder(tmp_path / "raw", format="PNG")
        source = sources.open("image_folder", str(tmp_path / "data"), str(folder))
        assert (source.num_classes, source.test_split, sorted(source.splits)) == (3, "test", ["test", "train"])
        assert len(source.train) == 9 and len(source.test) == 6
        example = source.train[4]
        assert (example["id"], example["label"]) == ("train/dog/0001.jpg", 1)
        assert example["image"].shape == (8, 6, 3) and example["image"].dtype == np.uint8
        many = source.train.__getitems__([8, 4])
        assert [one["id"] for one in many] == ["train/eel/0002.jpg", "train/dog/0001.jpg"]
        np.testing.assert_array_equal(many[1]["image"], example["image"])
        assert len(list(source.train)) == 9
        for row in (-1, 9):
            with pytest.raises(IndexError):
                source.train[row]

    def test_records_travel_to_other_processes(self, tmp_path):
        folder = raw_data.image_folder(tmp_path / "raw")
        records = sources.open("image_folder", str(tmp_path / "data"), str(folder)).train
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(records))[3]["image"], records[3]["image"])

    def test_images_of_differing_sizes_stream_but_do_not_load(self, tmp_path):
        folder = raw_data.image_folder(tmp_path / "raw")
        raw_data.write(folder / "train" / "dog" / "0001.jpg", raw_data.image_bytes(0, (5, 9)))
        source = sources.open("image_folder", str(tmp_path / "data"), str(folder))
        assert source.train[4]["image"].shape == (5, 9, 3)
        with pytest.raises(
            UsageError, match=r"differ in size, .*\(8, 6, 3\) and \(5, 9, 3\).*set data.crop_pixels to"
        ):
            sources.load("image_folder", str(tmp_path / "data"))

    def test_what_memory_cannot_hold_does_not_load(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "_MEMORY_LIMIT", 1000)
        with pytest.raises(UsageError, match=r"1257 examples of \(8, 8, 1\).*set data.path=stream"):
            sources.load("digits", str(tmp_path))


class TestLoad:
    def test_digits_are_in_their_original_order(self, tmp_path):
        dataset = sources.load("digits", str(tmp_path))
        assert len(dataset.train) == 1257 and len(dataset.test) == 540
        rows = dataset.train.ids.astype(int)
        assert (np.diff(rows) > 0).all()
        both = np.concatenate([rows, dataset.test.ids.astype(int)])
        np.testing.assert_array_equal(np.sort(both), np.arange(1797))

    def test_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UsageError, match=r"data.dir is .*--config.data.dir"):
            sources.load("digits", str(tmp_path / "file"))

    def test_unknown_name(self):
        with pytest.raises(UsageError, match="did you mean 'cifar10'"):
            sources.load("cifar_10")


class TestThoseOfTfds:
    def test_rows_come_in_the_order_of_ids_with_every_column(self, tmp_path):
        images = prepare_like_tfds("cifar10_n", tmp_path)
        stored = [example["id"] for example in sources.open("cifar10_n", str(tmp_path)).train]
        assert stored != sorted(stored)  # tfds has shuffled them
        dataset = sources.load("cifar10_n", str(tmp_path))
        assert list(dataset.train.ids) == [f"train_{row:05d}" for row in range(12)]
        np.testing.assert_array_equal(dataset.train.labels, np.arange(12) % 10)
        np.testing.assert_array_equal(dataset.train.columns["worker1_id"], 100 + np.arange(12))
        for image, data in zip(dataset.train.images, images, strict=True):
            np.testing.assert_array_equal(image, sources.images.decode(data, 3))

    def test_human_labels_are_its_columns(self, tmp_path):
        prepare_like_tfds("cifar10_n", tmp_path)
        labels = human_labels("", sources.load("cifar10_n", str(tmp_path)))
        assert sorted(labels) == ["random_label1", "worse_label"]
        np.testing.assert_array_equal(labels["worse_label"], (np.arange(12) + 1) % 10)

    @pytest.mark.parametrize("name", prepare.TFDS_TEST_SPLITS)
    def test_says_that_tensorflow_is_needed(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(UsageError, match=f"{name}.*needs TensorFlow.*pip install .*prepare"):
            sources.open(name, str(tmp_path / "data"))
        assert not (tmp_path / "data").exists()

    def test_what_tfds_fails_at_is_one_sentence_and_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(name, data_dir, file_format):
            raw_data.write(data_dir / "downloads" / "a.tar.tmp.123" / "a.tar", b"partial")
            (data_dir / name / "5.1.0").mkdir(parents=True)
            raise AssertionError("Manual directory does not exist.\nGet\nit.")

        monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda _: True)
        monkeypatch.setattr(prepare.tfds, "builder", fail)
        with pytest.raises(
            UsageError,
            match=r"AssertionError: Manual directory does not exist. Get it.\): put .* data.raw_dir, which is ",
        ):
            sources.open("imagenet2012", str(tmp_path / "data"))
        assert not (tmp_path / "data").exists()

    def test_another_file_format_is_refused(self, tmp_path):
        prepare_like_tfds("cifar10", tmp_path)
        path = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
        with pytest.raises(UsageError, match=r"prepared as tfrecord, expected array_record.*--config.data.dir"):
            sources.open("cifar10", str(tmp_path))

    def test_newest_version_is_read(self, tmp_path):
        for version in ("3.0.2", "10.0.0", "9.0.0"):
            raw_data.write(tmp_path / version / "dataset_info.json", b"{}")
        raw_data.write(tmp_path / "11.0.0.incompleteABC" / "dataset_info.json", b"{}")
        assert prepare.newest(tmp_path) == tmp_path / "10.0.0"

    def test_a_split_that_is_missing(self, tmp_path):
        prepare_like_tfds("imagenet2012", tmp_path)
        with pytest.raises(UsageError, match=r"only train, test is prepared .* expected validation too"):
            sources.open("imagenet2012", str(tmp_path))


class TestHumanLabels:
    # In the original order; the data set below holds the same images by class.
    CLEAN = np.array([2, 0, 1, 1, 0, 2])
    WORSE = np.array([0, 1, 2, 0, 2, 1])

    def dataset(self, labels, ids) -> sources.Dataset:
        split = sources.Split(np.zeros((len(labels), 2, 2, 1), np.uint8), np.array(labels), np.array(ids))
        return sources.Dataset("image_folder", split, split, ("a", "b", "c"))

    def by_class(self) -> sources.Dataset:
        ids = [
            f"train/{c}/{k}.jpg" for c in "abc" for k in (1, 0)
        ]  # the order of names need not be that of numbers
        return self.dataset([0, 0, 1, 1, 2, 2], ids)

    def write(self, tmp_path, **arrays) -> str:
        np.savez(tmp_path / "labels.npz", **arrays)
        return str(tmp_path / "labels.npz")

    def test_kth_of_a_class_is_the_kth_of_its_clean_labels(self, tmp_path):
        path = self.write(tmp_path, clean_label=self.CLEAN, worse_label=self.WORSE)
        labels = human_labels(path, self.by_class())
        assert list(labels) == ["worse_label"] and labels["worse_label"].dtype == np.int32
        np.testing.assert_array_equal(labels["worse_label"], self.WORSE[[4, 1, 3, 2, 5, 0]])

    def test_the_same_order_is_taken_as_it_is(self, tmp_path):
        path = self.write(tmp_path, clean_label=self.CLEAN, worse_label=self.WORSE)
        ids = [f"train_{row}" for row in range(6)]
        labels = human_labels(path, self.dataset(self.CLEAN, ids))
        np.testing.assert_array_equal(labels["worse_label"], self.WORSE)

    @pytest.mark.parametrize(
        "changes, message",
        [
            (
                {"clean_label": np.array([2, 0, 1, 1, 0, 0])},
                "3 clean labels are class 0, 'a', of which .* has 2",
            ),
            (
                {"clean_label": CLEAN[:5]},
                "clean_label has 5 labels, expected one for each of .* 6 training images",
            ),
            ({"worse_label": WORSE[:5]}, "worse_label has 5 labels"),
            (
                {"worse_label": WORSE + 1},
                "worse_label: 2 of 6 are outside the classes 0 to 2, first 3 at row 2",
            ),
            ({"worse_label": WORSE / 2}, "worse_label: .* dtype float64"),
        ],
    )
    def test_refuses_labels_that_do_not_fit(self, tmp_path, changes, message):
        path = self.write(tmp_path, **{"clean_label": self.CLEAN, "worse_label": self.WORSE, **changes})
        with pytest.raises(UsageError, match=message):
            human_labels(path, self.by_class())

    def test_refuses_images_whose_names_are_not_their_places(self, tmp_path):
        path = self.write(tmp_path, clean_label=self.CLEAN, worse_label=self.WORSE)
        for ids in ([f"train/{k}.jpg" for k in range(6)], None):
            split = self.by_class().train
            split = sources.Split(split.images, split.labels, None if ids is None else np.array(ids))
            with pytest.raises(UsageError, match="labels cannot be aligned"):
                human_labels(path, sources.Dataset("image_folder", split, split, ("a", "b", "c")))

    def test_refuses_what_is_no_file_of_labels(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"PK nothing")
        np.save(tmp_path / "a.npy", self.CLEAN)
        for name in ("a.npz", "a.npy", "nowhere.npz"):
            with pytest.raises(UsageError, match=re.escape(name)):
                human_labels(str(tmp_path / name), self.by_class())
        with pytest.raises(UsageError, match="has worse_label, expected clean_label too"):
            human_labels(self.write(tmp_path, worse_label=self.WORSE), self.by_class())
        with pytest.raises(UsageError, match="path of the human labels is empty"):
            human_labels("", self.by_class())


@pytest.mark.parametrize(
    ("data_dir", "environment", "problem"),
    [
        ("gs://bucket", "", "data.dir is 'gs://bucket', expected a path of this machine's"),
        ("", "s3://bucket", "TFDS_DATA_DIR is 's3://bucket', expected a path of this machine's"),
        ("file", "", "data.dir is 'file', which is a file, expected a folder"),
        (
            "",
            "file/sets",
            "TFDS_DATA_DIR is 'file/sets', which cannot be written or read, as '.*/file' is a file",
        ),
    ],
)
def test_where_no_data_can_be_kept_one_sentence_says_so(data_dir, environment, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", environment)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=problem):
        prepare.prepared("digits", data_dir)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
