"""A prepared data set of somebody else's names no code that would be run."""

import json
import os
import sys
from pathlib import Path

import pytest
import raw_data
from test_sources import prepare_like_tfds

from cmwnet_jax.data import sources
from cmwnet_jax.errors import UsageError

EVIL = "planted_module.Feature"
TFDS = "tensorflow_datasets.core.features."


def legacy(name: str, content) -> dict:
    return {"type": name, "content": content, "proto_cls": ""}


def in_json_feature(name: str, content) -> dict:
    return {"pythonClassName": name, "jsonFeature": {"json": json.dumps(content)}}


FEATURES = {
    "the whole": {"pythonClassName": EVIL, "featuresDict": {"features": {}}},
    "by protobuf's other name": {"python_class_name": EVIL, "featuresDict": {"features": {}}},
    "one of tfds's modules": {"pythonClassName": "tensorflow_datasets.testing.Feature", "text": {}},
    "one beside tfds's": {"pythonClassName": TFDS + "image_feature.Other", "text": {}},
    "in a dictionary": {
        "pythonClassName": TFDS + "features_dict.FeaturesDict",
        "featuresDict": {"features": {"label": {"pythonClassName": EVIL, "text": {}}}},
    },
    "in a sequence": {
        "pythonClassName": TFDS + "sequence_feature.Sequence",
        "sequence": {"feature": {"pythonClassName": EVIL, "text": {}}},
    },
    "the older form": legacy(EVIL, {}),
    "in the older form": legacy(TFDS + "features_dict.FeaturesDict", {"type": legacy(EVIL, {})}),
    "in a string": in_json_feature(
        TFDS + "features_dict.FeaturesDict",
        {"label": in_json_feature(TFDS + "text_feature.Text", legacy(EVIL, {}))},
    ),
    "in a string of the older form": {
        "type": TFDS + "features_dict.FeaturesDict",
        "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": " " + json.dumps({"features": {"label": {"pythonClassName": EVIL}}}),
    },
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module in the current folder, which Python imports from."""
    here = tmp_path / "here"
    raw_data.write(here / "planted_module.py", b"open('it ran', 'w')\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend("")
    yield here
    assert not (here / "it ran").exists() and "planted_module" not in sys.modules


def prepared(kind: str, tmp_path) -> tuple[str, Path]:
    """(name, folder) of a set that tfds builds, or of one of ours."""
    if kind == "theirs":
        prepare_like_tfds("cifar10", tmp_path / "data")
        return "cifar10", tmp_path / "data" / "cifar10" / "3.0.2"
    folder = raw_data.image_folder(tmp_path / "raw")
    return "image_folder", Path(sources.open("image_folder", str(tmp_path / "data"), str(folder)).folder)


@pytest.mark.parametrize("form", FEATURES)
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_no_module_is_imported(tmp_path, planted, form, file):
    kind = "theirs" if file == "features.json" else "ours"
    name, folder = prepared(kind, tmp_path)
    path = folder / file
    features = FEATURES[form]
    path.write_text(
        json.dumps(
            features if file == "features.json" else {**json.loads(path.read_text()), "features": features}
        )
    )
    with pytest.raises(UsageError, match=r"data.dir has the file .*, which names the class ") as error:
        sources.open(name, str(tmp_path / "data"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_nor_where_a_second_one_is_only_listed(tmp_path, planted):
    _, folder = prepared("ours", tmp_path)
    (folder / "features.json").write_text(json.dumps(FEATURES["the whole"]))
    raw_data.image_folder(tmp_path / "other", classes=("a", "b"))
    sources.open("image_folder", str(tmp_path / "data"), str(tmp_path / "other"))
    with pytest.raises(UsageError, match="names the class 'planted_module.Feature'"):
        sources.open("image_folder", str(tmp_path / "data"))


def test_the_module_that_a_set_says_it_is_of_is_not_imported(tmp_path, planted):
    name, folder = prepared("theirs", tmp_path)
    path = folder / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "moduleName": "planted_module"}))
    assert len(sources.load(name, str(tmp_path / "data")).train) == 12


@pytest.mark.parametrize(
    "name", ["x:cifar10", "planted_module", "../cifar10", "cifar10/../x", "", "a\nb", "/etc"]
)
def test_names_that_are_none(tmp_path, planted, name):
    with pytest.raises(UsageError, match="data.name is ") as error:
        sources.open(name, str(tmp_path / "data"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (os.mkfifo, "a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.write_bytes(b"\xff\xfe{\0}\0"), "codec can't decode"),
        (lambda path: path.write_text("[" * 100_000), "recursion"),
        (lambda path: path.write_text('{"pythonClassName": '), "Expecting value"),
    ],
)
def test_files_that_cannot_be_looked_through(tmp_path, make, message):
    name, folder = prepared("ours", tmp_path)
    (folder / "features.json").unlink()
    make(folder / "features.json")
    with pytest.raises(UsageError, match=f"features.json', which cannot be read .*{message}"):
        sources.open(name, str(tmp_path / "data"))


def test_labels_kept_beside_are_read_only_where_they_are_a_file(tmp_path):
    name, folder = prepared("ours", tmp_path)
    (folder / "labels-train.npy").unlink()
    os.mkfifo(folder / "labels-train.npy")
    labels = sources.read_labels(sources.open(name, str(tmp_path / "data")), "train")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("data_dir", ["caf\udce9", "a\0b", "x" * 300, "file", "~nobody-of-this-name"])
def test_data_dirs_that_nothing_can_be_prepared_in(tmp_path, monkeypatch, data_dir):
    raw_dir = str(raw_data.image_folder(tmp_path / "raw"))
    for name in ("file", "~nobody-of-this-name"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="data.dir is "):
        sources.open("image_folder", data_dir, raw_dir)
