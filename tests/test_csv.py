"""The data set `csv`: tables of numbers and of paths to images."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import raw_data
from PIL import Image
from test_builders import refused
from test_train import small_config

from cmwnet_jax.data import sources
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError


def numbers() -> dict[str, list]:
    """Twelve rows for training and six for testing, mixed."""
    rng = np.random.default_rng(0)
    label = [f"c{row % 3}" for row in range(18)]
    split = ["test" if row % 3 == row // 3 % 3 else "train" for row in range(18)]
    return {"label": label, "split": split, "a": list(rng.normal(size=18)), "b": list(range(18))}


def pictures(folder) -> dict[str, list]:
    """JPEGs of one size, half of them grey."""
    for row in range(18):
        data = raw_data.image_bytes(row, mode="L" if row % 2 else "RGB")
        raw_data.write(folder / "pictures" / f"{row}.jpg", data)
    rows = {name: values for name, values in numbers().items() if name in ("label", "split")}
    return rows | {"path": [f"pictures/{row}.jpg" for row in range(18)]}


def written(folder, columns, suffix=".csv"):
    table, path = pa.table(columns), folder / f"table{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if suffix == ".tsv" else ",")
        pyarrow.csv.write_csv(table, path, options)
    return path


def rows_of(split):
    return [row for row, own in enumerate(numbers()["split"]) if own == split]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_numbers_come_back_in_the_tables_order(tmp_path, suffix):
    found = sources.load("csv", str(tmp_path / "data"), str(written(tmp_path, numbers(), suffix)))
    expected = np.array([numbers()["a"], numbers()["b"]]).T.astype(np.float32)
    assert found.class_names == ("c0", "c1", "c2")
    for name, split in (("train", found.train), ("test", found.test)):
        rows = rows_of(name)
        np.testing.assert_array_equal(split.images, expected[rows])
        assert [found.class_names[label] for label in split.labels] == [f"c{row % 3}" for row in rows]
        assert list(split.ids) == [f"{row:05d}" for row in rows]


def test_true_labels_ids_and_a_split_called_validation(tmp_path):
    columns = numbers() | {"true_label": numbers()["label"], "id": [f"q{row}" for row in range(18)]}
    columns["split"] = [split.replace("test", "validation") for split in columns["split"]]
    columns["label"] = ["c1" if row == 3 else label for row, label in enumerate(columns["label"])]
    fields = {"data__dir": str(tmp_path / "data"), "data__raw_dir": str(written(tmp_path, columns))}
    data = load_data(small_config(data__name="csv", data__bias="none", **fields))
    assert (
        data.biased.is_wrong.sum() == 1 and data.biased.truth_known and data.source.test_split == "validation"
    )
    assert [example["id"] for example in data.source.test][:2] == [f"q{row}" for row in rows_of("test")[:2]]


def test_images_by_path_are_upright_and_in_rgb(tmp_path):
    """A photograph's EXIF says how it was held."""
    columns, sideways = pictures(tmp_path), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "pictures" / "1.jpg").rotate(90, expand=True).save(sideways, "JPEG", exif=exif)
    (tmp_path / "pictures" / "1.jpg").write_bytes(sideways.getvalue())
    found = sources.load("csv", str(tmp_path / "data"), str(written(tmp_path, columns)))
    assert found.train.images.shape == (12, 8, 6, 3)
    assert list(found.train.ids) == [f"pictures/{row}.jpg" for row in rows_of("train")]
    grey = np.asarray(Image.open(tmp_path / "pictures" / "3.jpg"))
    np.testing.assert_array_equal(
        found.train.images[rows_of("train").index(3)], np.repeat(grey[..., None], 3, -1)
    )


def changed(**new):
    return lambda columns: columns.update(new)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("label"), "which has no column 'label'"),
        (lambda c: c.pop("split"), "which has no column 'split'"),
        (changed(split=["train"] * 18), "no test or val or validation split"),
        (changed(split=["train", "test", "dev"] * 6), "split is 'dev' in some rows"),
        (changed(a=[None, *range(17)]), "the column 'a' has no value in row 1"),
        (changed(b=[*range(17), float("nan")]), "the column 'b' has nan in row 18"),
        (changed(b=[1e300, *range(17)]), r"the column 'b' has 1e\+300 in row 1, .* float32"),
        (changed(words=["hello"] * 18), "the column 'words' is text, first 'hello', expected numbers"),
        (changed(label=["c0"] * 18), "all labels are 'c0', expected at least 2"),
        (changed(label=["c0", *["c1"] * 17]), "is not among|have a single example"),
        (changed(label=[0.5] * 18), "label of train is double|label of train is float64"),
        (changed(id=["q"] * 18), "id of train has the id 'q' more than once"),
        (changed(label=[None, *["c1"] * 17]), "'label' has no value in row 1|the label ''|single example"),
        (changed(path=["pictures/x.jpg"] * 18), "path of train has the id 'pictures/x.jpg' more than once"),
        (lambda c: [c.pop(name) for name in "ab"], "neither a column path nor any column of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence(tmp_path, spoil, message):
    columns = numbers()
    spoil(columns)
    assert re.search(message, refused("csv", tmp_path, written(tmp_path, columns, ".parquet")))


def test_images_that_cannot_be_used_are_one_sentence(tmp_path):
    columns = pictures(tmp_path)
    (tmp_path / "pictures" / "4.jpg").unlink()
    message = refused("csv", tmp_path, written(tmp_path, columns))
    assert "where 1 of 18 paths name no file, the first 'pictures/4.jpg': paths start at" in message
    (tmp_path / "pictures" / "4.jpg").write_bytes(b"no image")
    assert "1 of the first" in refused("csv", tmp_path, written(tmp_path, columns))
    assert "column 'a' besides path" in refused("csv", tmp_path, written(tmp_path, columns | {"a": range(18)}))


def test_other_files_are_one_sentence(tmp_path):
    assert "which cannot be read as a table (No such file" in refused("csv", tmp_path, tmp_path / "a.csv")
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b'\x00\xff,"\nx')
        assert "cannot be read as a table" in refused("csv", tmp_path, tmp_path / name)
    assert "which is no table" in refused("csv", tmp_path, tmp_path)
    (tmp_path / "a.csv").write_text("label,split,label\n")
    assert "which has no row" in refused("csv", tmp_path, tmp_path / "a.csv")


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_pickles_of_human_labels_are_refused_with_a_conversion(suffix):
    with pytest.raises(UsageError, match=r"numpy.savez\('labels.npz', .*of a published file that you trust"):
        human_labels(f"CIFAR-10_human.{suffix}", None)
