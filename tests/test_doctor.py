"""What the doctor says of data before they are prepared, on made folders; it writes nothing."""

import gzip
import os
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import raw_data
from test_csv import OF_TEXTS, texts, written
from test_train import small_config

from cmwnet_jax.data import doctor, prepare, sources
from cmwnet_jax.data.bias import BiasedLabels
from cmwnet_jax.data.bias_record import Record, save_record
from cmwnet_jax.data.doctor import examine
from cmwnet_jax.data.findings import report_line, verdict
from cmwnet_jax.data.named_files import named_files
from cmwnet_jax.train.starts import starts


def examined(tmp_path, name, raw_dir="", **fields):
    """(the lines, the texts of what is wrong); nothing has been written."""
    folder = tmp_path / "tfds"
    before = sorted(path for path in tmp_path.rglob("*"))
    config = small_config(data__name=name, data__dir=str(folder), data__raw_dir=str(raw_dir), **fields)
    findings = list(examine(config))
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert all(finding.text.isprintable() for finding in findings)
    wrong = [finding.text for finding in findings if finding.is_problem]
    return [report_line(finding) for finding in findings] + [verdict(findings)], wrong


def test_a_folder_of_images_in_good_order_and_prepared(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    lines, wrong = examined(tmp_path, "image_folder", folder, data__resize_pixels=6, data__crop_pixels=4)
    assert not wrong and lines[-1] == "nothing is wrong"
    text = "\n".join(lines)
    assert "3 classes, 9 in train and 6 in test" in text
    assert "15 images, evenly spaced, were read whole: none is damaged" in text
    assert f"about {1.05 * size / 1000:.1f} kB will be written to" in text
    assert "preparing will take about 1 second, once (an estimate: " in text and "data.workers is 0" in text
    sources.open("image_folder", str(tmp_path / "tfds"), str(folder))
    lines, wrong = examined(tmp_path, "image_folder", folder)
    assert not wrong and any("prepared in '" in line and "9 in train, 6 in test" in line for line in lines)
    lines, wrong = examined(tmp_path, "image_folder")  # by its name alone
    assert not wrong and len(lines) == 2
    (shard,) = (tmp_path / "tfds").rglob("*train.array_record*")
    raw_data.truncate(shard)
    assert "damaged" in examined(tmp_path, "image_folder")[1][0]


def test_what_is_missing_empty_or_damaged_is_counted(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    for number in range(2):
        (folder / "train/cat" / f"000{number}.jpg").write_bytes(b"")
    raw_data.truncate(folder / "test/dog/0000.jpg")
    _, wrong = examined(tmp_path, "image_folder", folder)
    assert wrong[0].startswith("2 files are empty, the first 'train/cat/0000.jpg'")
    assert wrong[1].startswith("3 of 15 images tried cannot be used, the first 'train/cat/0000.jpg'")
    shutil.rmtree(folder / "test")
    lines, wrong = examined(tmp_path, "image_folder", folder)
    assert "has no test or val or validation split" in wrong[0] and lines[-1] == "1 thing is wrong"
    assert "does not exist" in examined(tmp_path, "image_folder", tmp_path / "nowhere")[1][0]
    assert "is not prepared in" in examined(tmp_path, "webvision_mini")[1][0]
    folder = raw_data.webvision_folder(tmp_path / "web", classes=50)
    (folder / "google/q0007/a.jpg").unlink()
    assert (
        "where 1 of the 50 images that info/train_filelist_google.txt"
        in examined(tmp_path, "webvision_mini", folder)[1][0]
    )


def test_images_of_several_sizes_need_a_crop(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    raw_data.write(folder / "train/cat/wide.jpg", raw_data.image_bytes(0, (8, 9)))
    _, wrong = examined(tmp_path, "image_folder", folder)
    assert wrong == ["data.crop_pixels is 0, but images differ in size, e.g. 8x6 and 8x9: set it"]
    assert not examined(tmp_path, "image_folder", folder, data__crop_pixels=6)[1]


def test_the_second_test_split_is_examined_too(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw")
    fields = {"data__also_test": "imagenet_val", "data__crop_pixels": 4}
    wanted = "data.also_test is 'imagenet_val', which is not prepared in .* --config.data.also_test_raw_dir to"
    ((missing,), places) = (examined(tmp_path, "image_folder", folder, **fields)[1], tmp_path / "val")
    assert re.match(wanted, missing)
    raw_data.write(places / "n01440764/ILSVRC2012_val_00000293.JPEG", raw_data.image_bytes(0))
    fields["data__also_test_raw_dir"] = str(places)
    lines, wrong = examined(tmp_path, "image_folder", folder, **fields)
    assert any("1 classes, 1 in val, in " in line for line in lines)
    assert len(wrong) == 1 and "none of whose classes, e.g. 'n01440764', has the name of one" in wrong[0]
    for split in ("train", "test"):
        (folder / split / "cat").rename(folder / split / "n01440764 tench")
    lines, wrong = examined(tmp_path, "image_folder", folder, **fields)
    assert not wrong and "of imagenet_val's 1 classes, the training set has 1" in lines[-2]


def test_a_split_of_the_set_itself_to_test_on_is_looked_for(tmp_path):
    folder = raw_data.image_folder(tmp_path / "raw", splits={"train": 3, "test": 1, "val": 1})
    lines, wrong = examined(tmp_path, "image_folder", folder, data__also_test="val")
    assert not wrong and lines[-2].endswith("data.also_test: 'val' is a split of image_folder")
    for name in ("vall", "test"):
        (wrong,) = examined(tmp_path, "image_folder", folder, data__also_test=name)[1]
        assert wrong.startswith(f"data.also_test is {name!r}, expected one of ") and "val" in wrong


def test_a_table_is_read_as_the_config_says(tmp_path):
    """Texts, and the labels in another column."""
    path = written(tmp_path, texts())
    fields = {f"data__{name}": value for name, value in OF_TEXTS.items()}
    lines, wrong = examined(tmp_path, "csv", path, **fields)
    assert not wrong and "3 classes, 12 in train and 6 in test" in lines[0]
    sources.open("csv", str(tmp_path / "tfds"), str(path), options=OF_TEXTS)
    lines, wrong = examined(tmp_path, "csv", path, **fields)
    assert not wrong and "prepared in '" in lines[-2]


def test_what_a_run_starts_from_is_read(tmp_path):
    """As a run would read it after hours of preparation: the file's format, the network, the meta-classes."""
    net, page = "zoo:digits_long_tail_5_asymmetric_60", tmp_path / "page.safetensors"
    page.write_bytes(b"<html>")
    given = {"weight_net__init": net, "model__init": str(tmp_path), "method": "mwnet"}
    config = small_config(data__name="digits", data__dir=str(tmp_path), **given)
    wrong = [finding.text for finding in examine(config, starts(config)) if finding.is_problem]
    assert len(wrong) == 2
    assert "holds no finished run with a checkpoint" in wrong[0] and "num_meta_classes is 3" in wrong[1]
    config.method, config.model.init = "cmwnet", ""
    config.model.name, config.model.pretrained = "resnet18", str(page)
    texts = [finding.text for finding in examine(config, starts(config))]
    assert texts[0].startswith("model.pretrained: ") and "cannot be read" in texts[0]
    assert texts[1] == f"weight_net.init: {net!r} is a weight net with K = 3, as cmwnet needs"
    config.model.name = "transformer"
    (wrong,) = [finding.text for finding in examine(config, starts(config)) if finding.is_problem]
    assert "model to load pretrained weights into is 'transformer'" in wrong


def test_a_weight_net_for_few_labels_has_the_configs_number_of_meta_classes():
    given = {"weight_net__init": "zoo:digits_long_tail_5_asymmetric_60", "method": "fixmatch_cmwnet"}
    read = starts(small_config(**given))["weight_net.init"]
    assert read() == "a weight net with K = 3, as fixmatch_cmwnet needs"


def test_files_in_memory_and_the_bundled_set(tmp_path):
    assert examined(tmp_path, "digits")[1] == []
    folder = tmp_path / "mnist"
    raw_data.mnist_folder(folder)
    lines, wrong = examined(tmp_path, "mnist_format", folder)
    assert not wrong and "about 378 bytes will be written" in lines[1]  # 18 images of 20 pixels, and a bit
    name = "train-images-idx3-ubyte.gz"
    (folder / name).write_bytes(gzip.compress(b"not an array"))
    assert name in examined(tmp_path, "mnist_format", folder)[1][0]


def test_a_full_disk_and_one_that_cannot_be_written(tmp_path, monkeypatch):
    folder = raw_data.image_folder(tmp_path / "raw")
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "total used free")(100, 90, 10)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        assert "10 bytes are free: make room" in examined(tmp_path, "image_folder", folder)[1][0]
        patch.setattr(shutil, "disk_usage", lambda path: os.stat(tmp_path / "no file system that says"))
        lines, wrong = examined(tmp_path, "image_folder", folder)
        assert not wrong and "not known how much is free (No such file or directory)" in lines[-2]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written: set --config.data.dir" in examined(tmp_path, "image_folder", folder)[1][0]


def test_what_tfds_will_download_and_what_it_wants_by_hand(tmp_path, monkeypatch):
    lines, wrong = examined(tmp_path, "fashion_mnist")
    assert (
        not wrong
        and "fashion_mnist is not prepared yet; tfds will download what it needs of 30.9 MB" in lines[0]
    )
    _, wrong = examined(tmp_path, "imagenet_lt")
    assert wrong[0].startswith("data.raw_dir is empty, expected a folder with ILSVRC2012_img_train.tar")
    raw = tmp_path / "raw"
    raw_data.write(raw / "ILSVRC2012_img_train.tar", b"too short")
    _, wrong = examined(tmp_path, "imagenet_lt", raw)
    assert "ILSVRC2012_img_train.tar' has 9 bytes, expected 147,897,477,120: fetch it again" in wrong[0]
    assert "ILSVRC2012_img_val.tar' is missing: download it by hand" in wrong[1]
    (wrong,) = examined(tmp_path, "imagenet_lt", raw / "ILSVRC2012_img_train.tar")[1]
    assert wrong.endswith("a file, expected the folder that it lies in: give that")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "TensorFlow is not installed" in examined(tmp_path, "cifar10")[1][0]
    assert "how much will be written to " in examined(tmp_path, "cifar10_n")[0][-2]
    for name in prepare.DATASETS:
        examined(tmp_path, name)


def test_other_files_that_the_config_names(tmp_path):
    _, wrong = examined(
        tmp_path, "digits", data__bias="pmd1_35", data__human_labels=str(tmp_path / "no"), model__init="~/no"
    )
    assert [text.partition(" ")[0] for text in wrong] == ["data.human_labels:", "model.init:", "data.posterior"]
    np.save(tmp_path / "p.npy", np.ones(1))
    lines, wrong = examined(tmp_path, "digits", data__bias="pmd1_35", data__posterior=str(tmp_path / "p.npy"))
    assert not wrong and lines[0].endswith("p.npy' is there")
    _, wrong = examined(tmp_path, "digits", data__bias="open_set_40", data__open_set_from="image_folder")
    assert "image_folder" in wrong[0] and "not prepared" in wrong[0]


@pytest.mark.parametrize("is_there", [True, False])
def test_the_last_line_says_whether_all_is_well(is_there, tmp_path, capsys):
    raw = raw_data.image_folder(tmp_path / "raw") if is_there else tmp_path / "nowhere"
    config = small_config(data__name="image_folder", data__dir=str(tmp_path), data__raw_dir=str(raw))
    assert doctor.print_report(config) == is_there
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == ("nothing is wrong" if is_there else "1 thing is wrong")


def test_what_a_run_would_refuse_after_preparing_is_told_before(tmp_path):
    raw_data.write(tmp_path / "val/n01440764/ILSVRC2012_val_00000293.JPEG", raw_data.image_bytes(0))
    (wrong,) = examined(tmp_path, "imagenet_val", tmp_path / "val")[1]
    assert "imagenet_val', which has nothing to train on" in wrong
    (wrong,) = examined(tmp_path, "digits", data__also_test="digits")[1]
    assert wrong.startswith("data.also_test is 'digits', the set that the run trains and tests on already")
    (wrong,) = examined(tmp_path, "digits", data__bias="human_worse_label")[1]
    assert wrong.startswith("data.human_labels is empty")
    folder = raw_data.animal_folder(tmp_path / "animal")
    (folder / "testing/3_10.jpg").unlink()
    (wrong,) = examined(tmp_path, "animal10n", folder)[1]
    assert "have no example in test, the first 'coyote': set --config.data.raw_dir to " in wrong


def test_the_files_that_the_section_data_names_are_read(tmp_path):
    """A saved bias, class probabilities and human labels; damage is found before the set is prepared."""
    labels = np.arange(6) % 3
    biased = BiasedLabels.clean(labels, 3).relabel((labels + 1) % 3)
    save_record(tmp_path / "record", Record(biased, "asymmetric_40", 5, "digits"), labels)
    np.save(tmp_path / "posterior.npy", np.full((6, 3), 1 / 3))
    np.save(tmp_path / "logits.npy", np.full((6, 3), 2.0))
    np.savez(tmp_path / "human.npz", clean_label=labels, worse_label=labels)
    fields = {"data__dir": str(tmp_path / "tfds"), "data__name": "digits", "data__bias": "pmd1_35+human_worse"}
    places = ("record", "posterior.npy", "logits.npy", "human.npz")
    fields |= {
        f"data__{name}": str(tmp_path / place)
        for name, place in zip(("record", "posterior", "confidences", "human_labels"), places, strict=True)
    }
    config = small_config(**fields)
    record, posterior, logits, human, *_ = [finding.text for finding in examine(config, named_files(config))]
    assert record.endswith(
        " is a whole record of 'digits': bias 'asymmetric_40', seed 5, 6 examples of 3 classes"
    )
    assert posterior.endswith(" is a table of probabilities: 6 examples, 3 classes")
    assert "6 rows are not distributions" in logits and "confidences.npy in the folder of" in logits
    assert human.endswith(" is a file of human labels for 6 images: worse_label")
    raw_data.truncate(tmp_path / "record" / "bias.npz")
    np.save(tmp_path / "posterior.npy", np.ones(6))
    for clean, worse in ((np.array(3), labels), (labels, labels[:4]), (labels, labels / 2)):
        np.savez(tmp_path / "human.npz", clean_label=clean, worse_label=worse)
        (human,) = [f.text for f in examine(config, named_files(config)) if "human_labels" in f.text]
        assert "expected one integer per image" in human
    (tmp_path / "human.npz").unlink()
    wrong = [finding.text for finding in examine(config, named_files(config)) if finding.is_problem]
    assert "does not match its checksum" in wrong[0] and "expected (training examples, classes)" in wrong[1]
    assert wrong[3].startswith("data.human_labels: ") and "No such file" in wrong[3]
