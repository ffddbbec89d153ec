"""A second test split: found, matched by class, tested beside the first one, and reported under its name."""

import io
import json
import shutil

import numpy as np
import pytest
import raw_data
from PIL import Image
from test_builders import ids_of, labels_of
from test_report import make_run
from test_sources import prepare_like_tfds
from test_train import small_config

from cmwnet_jax.data import sources
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.measure import Measured
from cmwnet_jax.report.find import find_runs
from cmwnet_jax.report.paper import read_paper
from cmwnet_jax.report.tables import accuracy_table, also_tables
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.evaluate import accuracy_metrics
from cmwnet_jax.train.loop import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A set of three classes with two splits to test on, and another one, which has one class of its own."""
    root = tmp_path_factory.mktemp("folders")
    raw_data.image_folder(root / "own", splits={"train": 8, "test": 2, "val": 3})
    raw_data.image_folder(root / "other", classes=("dog", "ant", "cat"), splits={"train": 1, "test": 4})
    return root


def config_of(folders, **fields):
    return small_config(
        method="erm",
        data__name="image_folder",
        data__raw_dir=str(folders / "own"),
        data__dir=str(folders / "data"),
        data__bias="none",
        batch_size=8,
        num_epochs=2,
        warmup_epochs=0,
        **fields,
    )


@pytest.mark.parametrize("path", ["device", "stream"])
def test_both_input_paths_find_the_examples_whose_classes_the_training_set_has(folders, path):
    fields = {"data__also_test": "image_folder", "data__also_test_raw_dir": str(folders / "other")}
    data = load_data(config_of(folders, data__path=path, **fields))
    assert (data.also_test.name, data.also_test.num_classes) == ("image_folder", 2)
    assert data.also_test.labels.tolist() == [0] * 4 + [1] * 4  # cat and dog, in the order of the other set
    source = sources.open("image_folder", str(folders / "data"), str(folders / "other"))
    names = [f"test/{name}/{k:04d}.jpg" for name in ("cat", "dog") for k in range(4)]
    expected = [source.test[ids_of(source.test).index(name)]["image"] for name in names]
    np.testing.assert_array_equal(data.splits["also_test"].take(np.arange(8)).image, expected)


@pytest.mark.parametrize("path", ["device", "stream"])
def test_images_keep_their_labels_where_tfds_has_shuffled_them(path, tmp_path):
    raw_data.image_folder(tmp_path / "own", classes=("0", "1", "7"), size=(4, 4))
    images = prepare_like_tfds("cifar10", tmp_path / "data")
    config = config_of(tmp_path, data__path=path, data__also_test="cifar10")
    data = load_data(config)
    seen = data.splits["also_test"].take(np.arange(len(data.also_test.labels)))
    expected = {
        np.asarray(Image.open(io.BytesIO(image))).tobytes(): row % 10 for row, image in enumerate(images)
    }
    names = [int(data.source.class_names[label]) for label in np.asarray(seen.label)]
    assert [expected[image.tobytes()] for image in np.asarray(seen.image)] == names
    np.testing.assert_array_equal(seen.label, data.also_test.labels)


def test_a_second_table_is_read_as_the_first_one(folders, tmp_path):
    table = "split,kind,a\n" + "".join(
        f"{split},{k % 2},{k}\n" for k in range(6) for split in ("train", "test")
    )
    for name in ("own.csv", "other.csv"):
        (tmp_path / name).write_text(table + f"test,1,{9 + (name == 'own.csv')}\n")
    fields = {
        "data__name": "csv",
        "data__raw_dir": str(tmp_path / "own.csv"),
        "data__label_column": "kind",
        "data__also_test": "csv",
        "data__also_test_raw_dir": str(tmp_path / "other.csv"),
    }
    config = small_config(method="erm", data__dir=str(tmp_path / "data"), data__bias="none", **fields)
    check_config(config)
    assert len(load_data(config).also_test.labels) == 7


def test_a_run_reports_both_splits(folders, tmp_path):
    config = config_of(folders, data__also_test="val")
    result = train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [0 <= line["val_accuracy_percent"] <= 100 for line in lines] == [True, True]
    assert (result["also_test"], result["also_test_examples"], result["also_test_classes"]) == ("val", 9, 3)
    assert result["val_accuracy_percent_last"] == lines[-1]["val_accuracy_percent"]
    mean = np.mean([line["val_accuracy_percent"] for line in lines])
    assert result["val_accuracy_percent_last10"] == pytest.approx(mean)
    (table,) = also_tables(find_runs([tmp_path]), lambda score: {})
    assert (
        table.title.startswith("accuracy on val (%)")
        and table.texts()[1][1] == f"{mean:.2f} (1, last 2 epochs)"
    )


def test_accuracies_are_named_by_classifier_and_split():
    ranks, labels = np.array([0, 3, 9, 0]), np.array([1, 2, 3, 4])
    predictions = np.where(ranks == 0, labels, 0)
    measured = Measured(*np.zeros((5, 4)))._replace(predictions=predictions, ranks=ranks)
    found = accuracy_metrics("web", {"": measured, "teacher": measured}, labels, num_classes=11)
    assert found == {
        "web_accuracy_percent": 50.0,
        "web_top5_percent": 75.0,
        "teacher_web_accuracy_percent": 50.0,
        "teacher_web_top5_percent": 75.0,
    }
    assert "web_top5_percent" not in accuracy_metrics("web", {"": measured}, labels, num_classes=10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"also_test": "test"}, "which is the split 'test' that the run .* already, .*: take val, or another"),
        ({"also_test": "image_folder", "also_test_raw_dir": "own"}, "is the split 'test' that the run trains"),
        ({"also_test": "validation"}, "data.also_test is 'validation', expected one of .*val"),
        ({"also_test": "vall"}, "data.also_test is 'vall', .*did you mean 'val'"),
        ({"also_test_raw_dir": "other"}, "data.also_test_raw_dir is .*, but data.also_test is ''"),
        ({"also_test": "val", "also_test_raw_dir": "other"}, "but data.also_test is 'val', expected"),
        ({"also_test": "digits"}, "data.also_test is 'digits', none of whose classes, e.g. '0', has the name"),
        (
            {"also_test": "imagenet_val", "also_test_raw_dir": "own"},
            "^data.also_test_raw_dir is .*no validation image",
        ),
        ({"name": "imagenet_val", "raw_dir": "val"}, "imagenet_val', which has nothing to train on.*also_test"),
        (
            {"also_test": "image_folder", "also_test_raw_dir": "wide"},
            r"uint8 \[8, 9, 3\], .* \[8, 6, 3\]",
        ),
    ],
)
def test_mistakes(folders, fields, message):
    if not (folders / "wide").exists():
        raw_data.image_folder(folders / "wide", splits={"train": 1, "test": 1}, size=(8, 9))
        shutil.copytree(folders / "own" / "val" / "cat", folders / "val" / "n01440764")
    config = config_of(folders)
    for name, value in fields.items():
        config.data[name] = str(folders / value) if name.endswith("raw_dir") else value
    with pytest.raises(UsageError, match=message) as error:
        check_config(config)
        load_data(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["folders", "numbers", "archive"])
def test_imagenets_validation_images_by_class_or_as_they_are_published(tmp_path, form):
    """The classes of images 1 to 3 are public: an Eskimo dog comes after the two others."""
    classes = {1: "n01751748", 2: "n09193705", 3: "n02105855"}
    for number, synset in classes.items():
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        place = f"{synset}/{name}" if form == "folders" else name
        raw_data.write(tmp_path / "val" / place, raw_data.image_bytes(number, (4 + number, 5)))
    raw = tmp_path / "val"
    if form == "archive":
        raw = raw_data.pack(raw, tmp_path / "ILSVRC2012_img_val.tar")
    source = sources.open("imagenet_val", str(tmp_path / "data"), str(raw), needed=())
    assert source.class_names == ("n01751748", "n02105855", "n09193705")
    height = {1: 5, 2: 6, 3: 7}
    by_class = dict(zip(labels_of(source.test), (x["image"].shape[0] for x in source.test), strict=True))
    assert by_class == {0: height[1], 1: height[3], 2: height[2]}


def test_a_number_that_no_validation_image_has(tmp_path):
    raw_data.write(tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG", raw_data.image_bytes(0))
    with pytest.raises(UsageError, match="1 images have numbers beyond 1 to 50000, the first 'ILSVRC2012_val_"):
        sources.open("imagenet_val", str(tmp_path / "data"), str(tmp_path / "val"), needed=())


def test_the_report_shows_it_beside_the_papers_numbers(tmp_path):
    scores = {"imagenet_val_accuracy_percent_last10": 66.0, "imagenet_val_top5_percent_last10": 88.0}
    scores |= {"test_top5_percent_last10": 90.0, "teacher_imagenet_val_accuracy_percent_last10": 67.0}
    for seed in (0, 1):
        run = tmp_path / f"runs/cmwnet_sl/seed{seed}"
        make_run(run, 70.0, method="cmwnet_sl", seed=seed)
        result = json.loads((run / "result.json").read_text())
        more = {name: value + seed for name, value in scores.items()} | {"also_test": "imagenet_val"}
        (run / "result.json").write_text(json.dumps({**result, **more}))
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "data": {"name": "webvision_mini"}}))
    paper = "experiments/paper_numbers.json"
    runs = find_runs([tmp_path / "runs"])
    tables = also_tables(runs, lambda score: read_paper(paper, (score,)))
    assert [(table.title.partition(" (")[0], table.texts()[1:]) for table in tables] == [
        (
            "accuracy on imagenet_val",
            [
                ["cmwnet_sl", "66.50 ± 0.71 (2); paper 75.72"],
                ["cmwnet_sl (teacher)", "67.50 ± 0.71 (2)"],
            ],
        ),
        ("top-5 accuracy on test", [["cmwnet_sl", "90.50 ± 0.71 (2); paper 92.96"]]),
        ("top-5 accuracy on imagenet_val", [["cmwnet_sl", "88.50 ± 0.71 (2); paper 92.52"]]),
    ]
    assert accuracy_table(runs, read_paper(paper)).texts()[1] == ["cmwnet_sl", "70.00 ± 0.00 (2); paper 78.08"]


def test_texts_of_another_table_are_refused_since_their_numbers_mean_something_else(tmp_path):
    for name, word in (("own", "tea"), ("other", "rain")):
        rows = [f"{i % 2},{split},{word}{i % 2} {word} today" for split in ("train", "test") for i in range(6)]
        raw_data.write(tmp_path / f"{name}.csv", "\n".join(["label,split,text", *rows]).encode())
    config = config_of(tmp_path)
    config.data.name, config.data.raw_dir = "csv", str(tmp_path / "own.csv")
    config.data.also_test, config.data.also_test_raw_dir = "csv", str(tmp_path / "other.csv")
    for texts in ("vectors", "tokens"):
        config.data.texts = texts
        with pytest.raises(UsageError, match="'csv', whose inputs were fitted on its own .* further split"):
            load_data(config)
