"""The data set `csv`: tables of numbers and of paths to images."""

import io
import json
import re
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import raw_data
from PIL import Image
from test_audit import make_run, outline
from test_builders import refused
from test_train import small_config

from cmwnet_jax.audit.write import write_audit
from cmwnet_jax.data import sources
from cmwnet_jax.data.builders.csv_table import Csv
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.data.load import load_data
from cmwnet_jax.data.texts import Vectors
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.check_config import check_config


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


def texts() -> dict[str, list]:
    """Texts of few words, the first of each split on two lines; the labels in a column of another name."""
    words = [["red", "card", "lost"], ["blue", "money", "sent"], ["green", "pin", "new"]]
    rng = np.random.default_rng(0)
    rows = {name: values for name, values in numbers().items() if name == "split"}
    rows["kind"] = numbers()["label"]
    rows["text"] = [" ".join(rng.permutation(words[row % 3])[:2]) for row in range(18)]
    rows["text"][0] = rows["text"][1] = "card\n lost 007"
    return rows


def folder_of(folder, columns):
    """A table per split, without the column that says so."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        own = {
            name: [value for value, of in zip(values, columns["split"], strict=True) if of == split]
            for name, values in columns.items()
            if name != "split"
        }
        pyarrow.csv.write_csv(pa.table(own), folder / f"{split}.csv")
    return folder


OF_TEXTS = {"label_column": "kind", "texts": "vectors"}


def test_texts_become_vectors_that_the_texts_show(tmp_path):
    """From one table, or a table per split."""
    columns, data = texts(), str(tmp_path / "data")
    shown = {
        split: [" ".join(columns["text"][row].split()) for row in rows_of(split)] for split in ("train", "test")
    }
    paths = {"one": written(tmp_path, columns), "two": folder_of(tmp_path / "two", columns)}
    for name, path in paths.items():
        source = sources.open("csv", data, str(path), options=OF_TEXTS)
        found, encoder = sources.read(source), Vectors(shown["train"])
        for split, own in (("train", found.train), ("test", found.test)):
            np.testing.assert_allclose(own.images, encoder.encode(shown[split]), atol=1e-6)
            labels = [numbers()["label"][row] for row in rows_of(split)]
            assert [found.class_names[label] for label in own.labels] == labels
            assert [example["path"] for example in source.splits[split]] == shown[split]
        ids = {"one": [f"{row:05d}" for row in rows_of("test")], "two": [f"{row:05d}" for row in range(6)]}
        assert list(found.test.ids) == ids[name]
    assert len(list((tmp_path / "data/csv").iterdir())) == 2


def test_texts_become_tokens_whose_words_are_known(tmp_path):
    fields = {"data__name": "csv", "data__bias": "none", "data__texts": "tokens", "data__label_column": "kind"}
    fields |= {"data__dir": str(tmp_path / "data"), "data__raw_dir": str(written(tmp_path, texts()))}
    data = load_data(small_config(**fields))
    texts_of = [texts()["text"][row].split() for row in rows_of("train")]
    shared = {word for own in texts_of for word in own if sum(word in other for other in texts_of) > 1}
    found = [[data.source.words[number] for number in row if number] for row in data.splits["train"].image]
    assert found == [[word if word in shared else "[unknown]" for word in own] for own in texts_of]
    assert data.source.vocabulary == len(data.source.words) == 2 + len(shared)


def test_the_gallery_shows_the_texts_or_else_the_words(tmp_path):
    columns = texts()
    fields = {"name": "csv", "dir": str(tmp_path / "data"), "raw_dir": str(written(tmp_path, columns))}
    fields |= {"label_column": "kind", "texts": "tokens"}
    names = {"id": [f"{row:05d}" for row in rows_of("train")]}
    names["path"] = [columns["text"][row].upper() for row in rows_of("train")]  # told from the words
    names["path"][0] = "long text " * 100
    for name, left in (("texts", names), ("words", {"id": names["id"]})):
        run = make_run(tmp_path / name, names=left, predictions__class_names=np.array(["c0", "c1", "c2"]))
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "data": fields}))
        write_audit([run], tmp_path / f"{name}_out")
    source = sources.open("csv", fields["dir"])
    tokens = sources.read(source).train.images
    words = {" ".join(source.words[number] for number in row if number) for row in tokens}
    names["path"][0] = f"{names['path'][0][:600]} …"
    for name, shown in (("texts", set(names["path"])), ("words", words)):
        assert shown <= set(outline(tmp_path / f"{name}_out/gallery.html").texts)


def test_further_columns_are_not_read_which_is_said_once(tmp_path, capsys):
    """Whatever they hold; of texts without a known word, the first rows are named."""
    columns = texts() | {"id": [f"q{row}" for row in range(18)], "when": [date(2026, 1, 2), *[None] * 17]}
    columns |= {"source": [None] * 17 + ["x"], "tags": [["a"]] * 18}
    for row, word in ((3, "uncommon"), (4, "strange"), (17, "and rare")):
        columns["text"][row] = word
    path, data = written(tmp_path, columns, ".parquet"), str(tmp_path / "data")
    found = sources.read(sources.open("csv", data, str(path), options=OF_TEXTS))
    assert list(found.train.ids) == [f"q{row}" for row in rows_of("train")]
    assert [bool(row.any()) for row in found.train.images] == [row != 3 for row in rows_of("train")]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "note: the columns 'when', 'source', 'tags' are not read"
    assert re.search("note: 1 of 12 texts of train have no word of at least two .*: row 4$", said[1])
    assert re.search("note: 2 of 6 texts of test have no .*: rows 5 and 18$", said[2]) and len(said) == 3
    sources.open("csv", data, str(path), options=OF_TEXTS)
    assert not capsys.readouterr().err
    columns = pictures(tmp_path) | {"taken": [date(2026, 1, 2)] * 18}
    found = sources.load("csv", data, str(written(tmp_path, columns)))
    assert found.train.images.shape == (12, 8, 6, 3)
    assert "note: the column 'taken' is not read (names of the examples" in capsys.readouterr().err


def changed(**new):
    return lambda columns: columns.update(new)


def without(*names):
    return lambda columns: [columns.pop(name) for name in names]


LABELS = numbers()["label"]
SINGLE = ["c9" if row == 3 else label for row, label in enumerate(LABELS)]  # row 3 is for training
ELSEWHERE = ["c9" if row == 0 else label for row, label in enumerate(LABELS)]  # row 0 is for testing
EMPTY = "where 2 texts are empty in the column 'text', rows 4 and 6: fill them in or take"
WRONG = {
    numbers: [
        (without("split"), "which has label, a, b, and no column 'split'"),
        (changed(split=["train"] * 18), r"no test or val or validation split \(split is 'train'\)"),
        (changed(split=["Train", "Test", "Test"] * 6), r"no train split \(split is 'Test', 'Train'\)"),
        (changed(split=["train", "test", "dev"] * 6), "split is 'dev' in some rows"),
        (changed(a=[None, *range(17)]), "the column 'a' has no value in row 1"),
        (changed(b=[*range(17), float("nan")]), "the column 'b' has nan in row 18"),
        (changed(b=[1e300, *range(17)]), r"the column 'b' has 1e\+300 in row 1, .* float32"),
        (changed(words=["hello"] * 18), "the column 'words' is text, first 'hello', expected numbers"),
        (changed(label=[0.5] * 18), "label of train is float64"),
        (changed(id=["q"] * 18), "id of train has the id 'q' more than once"),
        (changed(label=[None, *LABELS[1:]]), "the column 'label' has no value in row 1"),
        (changed(label=["", *LABELS[1:]]), "the column 'label' has no value in row 1"),
        (changed(True_Label=list(range(18))), "'True_Label' would be an input, although 'true_label' is a"),
        (changed(**{" ID": list(range(18))}), "column ' ID' would be an input, although 'id' is a name"),
        (changed(**{"": list(range(18))}), "the column '' would be an input, although it is named as pandas"),
        (changed(**{"Unnamed: 0": list(range(18))}), "the column 'Unnamed: 0' would be .* index=False, or"),
        (without("a", "b"), "neither a column path or text nor any of numbers"),
    ],
    pictures: [
        (changed(path=["pictures/x.jpg"] * 18), "path of train has the id 'pictures/x.jpg' more than once"),
        (changed(path=[None, *map(str, range(17))]), "the column 'path' has no value in row 1"),
        (changed(path=[f"{row}.jpg" for row in range(18)]), "where 12 of 12 paths of train name no file, the"),
        (changed(text=["x"] * 18), "which has a column 'path' and one 'text', expected images or texts"),
    ],
    texts: [
        (changed(text=[None, *texts()["text"][1:]]), "the column 'text' has no value in row 1"),
        (changed(text=[f"word{row}" for row in range(18)]), "training texts have no word .*: name the column"),
        (changed(text=["a b"] * 18), r"no word of at least two .*: make tokens of them \(data.texts=tokens"),
        (changed(text=[*texts()["text"][:3], "", "\n", " ", *texts()["text"][6:]]), EMPTY),
    ],
}  # fmt: skip
OF_LABELS = [
    (lambda name: without(name), "which has .*, and no column '{}'"),
    (lambda name: changed(**{name: ["c0"] * 18}), "all labels are 'c0', expected at least 2"),
    (lambda name: changed(**{name: SINGLE}), "1 of 4 classes have a single example in {} of train, "),
    (lambda name: changed(**{name: ELSEWHERE}), "where {} of test has the label 'c9', which is not among"),
]  # fmt: skip


@pytest.mark.parametrize("make", WRONG)
def test_what_cannot_be_used_is_one_sentence(tmp_path, make):
    name = "kind" if make is texts else "label"
    given = (tmp_path,) if make is pictures else ()
    of_labels = [(spoil(name), message.format(name)) for spoil, message in OF_LABELS]
    for number, (spoil, message) in enumerate([*WRONG[make], *of_labels]):
        columns = make(*given)
        spoil(columns)
        path = tmp_path / f"table{number}.parquet"
        pyarrow.parquet.write_table(pa.table(columns), path)
        said = refused("csv", tmp_path, path, {**OF_TEXTS, "label_column": name})
        assert re.search(message, said), said


def test_tables_of_a_folder_that_do_not_fit_are_one_sentence(tmp_path):
    refuse = lambda spoil: refused("csv", tmp_path, spoilt_folder(tmp_path, spoil), OF_TEXTS)  # noqa: E731
    said = refuse(lambda folder: (folder / "test.csv").rename(folder / "Test.csv"))
    assert "no test or val or validation split (it holds Test.csv, train.csv)" in said
    assert "both train.csv and train.tsv" in refuse(lambda folder: (folder / "train.tsv").write_text("kind\n"))
    said = refuse(lambda folder: (folder / "test.csv").write_text("text,label\na,c0\n"))
    assert "with the table 'test.csv', which has text, label, and no column 'kind'" in said
    said = refuse(lambda folder: (folder / "test.csv").write_text("a,kind\n1,c0\n"))
    assert "with the table 'test.csv', which has no column 'text', as the training examples have" in said
    said = refuse(lambda folder: (folder / "test.csv").write_text("text,kind\na,c0\nb\n"))
    assert re.search(r"test.csv', which cannot be read as a table \(.*Expected 2 columns, got 1", said), said
    said = refuse(lambda folder: (folder / "test.csv").write_text("text,kind,split\na,c0,test\n"))
    assert "has a column 'split', as the file's name says it" in said
    for split, other, which in (("test", "a,b,c", "a column 'c'"), ("test", "a", "no column 'b'")):
        folder = folder_of(tmp_path / f"numbers{other}", numbers())
        (folder / f"{split}.csv").write_text(f"{other},label\n{'1,' * len(other.split(','))}c0\n")
        assert f"which has {which}, unlike the training" in refused("csv", tmp_path, folder)


def spoilt_folder(tmp_path, spoil):
    folder = folder_of(tmp_path / str(len(list(tmp_path.iterdir()))), texts())
    spoil(folder)
    return folder


def test_images_that_are_none_are_one_sentence(tmp_path):
    columns = pictures(tmp_path)
    (tmp_path / "pictures" / "4.jpg").write_bytes(b"no image")
    assert "1 of the first" in refused("csv", tmp_path, written(tmp_path, columns))
    (tmp_path / "pictures" / "4.jpg").unlink()
    message = refused("csv", tmp_path, written(tmp_path, columns))
    assert "where 1 of 6 paths of test name no file, the first 'pictures/4.jpg': paths start at" in message


def test_other_files_are_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    assert "which is no table" in refused("csv", tmp_path, tmp_path / "a.txt")
    assert "which does not exist: set --config.data.raw_dir to a .csv" in refused(
        "csv", tmp_path, tmp_path / "a.csv"
    )
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b'\x00\xff,"\nx')
        assert "cannot be read as a table" in refused("csv", tmp_path, tmp_path / name)
    (tmp_path / "a.csv").write_text("label,split,a\n")
    assert "which has no row: write" in refused("csv", tmp_path, tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("label,split,label\nx,train,y\n")
    assert "(the column 'label' is there twice, and each needs" in refused("csv", tmp_path, tmp_path / "a.csv")
    for name, text, encoding, message in (
        (
            "a.csv",
            "label;split;a\nx;train;1,5\n",
            "utf-8",
            "first line has semicolons .*: write it anew, as UTF-8",
        ),
        (
            "a.tsv",
            "label,split,a\nx,train,1\n",
            "utf-8",
            "first line has commas .* with tabs between the cells",
        ),
        ("a.csv", "label,split,a\nx,train,1\n", "utf-16", r"\(it is UTF-16\): write it anew, as UTF-8 with"),
    ):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert re.search(message, refused("csv", tmp_path, tmp_path / name))


def test_a_column_called_label_gives_no_other_labels_away(tmp_path):
    path = written(tmp_path, numbers() | {"label": list(range(18)), "kind": numbers()["label"]})
    message = refused("csv", tmp_path, path, {"label_column": "kind"})
    assert "the column 'label' would be an input, although 'label' is a name with a meaning here" in message


def test_a_cell_may_be_longer_than_a_block_of_the_reader(tmp_path):
    path = tmp_path / "long.csv"
    lines = [f"red card {row},{'ab'[row % 2]},{('train', 'test')[row > 3]}\n" for row in range(6)]
    path.write_text("text,label,split\n" + "".join(lines) + '"' + "red card " * 150_000 + '",a,train\n')
    assert Csv.scan(path).sizes == {"train": 5, "test": 2}


def test_what_may_stand_for_a_missing_label_is_noted_and_a_similar_name_is_shown(tmp_path):
    columns = numbers() | {"label": ["nan" if label == "c2" else label for label in LABELS]}
    (note,) = Csv.scan(written(tmp_path, columns)).notes
    assert note.startswith("the label 'nan' is a class like the others: if it stands for missing labels, take")
    columns["label"][0] = "C0"
    message = refused("csv", tmp_path, written(tmp_path, columns))
    assert (
        "has the label 'C0', which is not among the 3 classes of training (the nearest is 'c0'): every"
        in message
    )


def test_fields_of_tables_are_for_tables():
    for fields, message in (
        ({"data__label_column": ""}, "data.label_column is empty, expected the column of labels: leave it"),
        ({"data__label_column": "text"}, "data.label_column is 'text', which has another meaning, expected"),
        (
            {"data__texts": "words", "data__name": "csv"},
            "data.texts is 'words', expected one of tokens, vectors",
        ),
        (
            {"data__texts": "tokens"},
            "data.texts is 'tokens', which digits does not read: leave it 'vectors', or",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            check_config(small_config(**fields))


def test_test_rows_are_compared_with_their_true_labels(tmp_path):
    true = numbers()["label"]
    wrong = [f"c{(int(label[1]) + (row % 4 == 0)) % 3}" for row, label in enumerate(true)]
    split = np.array(numbers()["split"])
    half = np.arange(18) < 9
    for is_known in (split != "neither", split == "train", (split == "train") | half):
        shown = np.where(is_known, true, "").tolist()
        path = written(tmp_path, numbers() | {"label": wrong, "true_label": shown})
        source = sources.open("csv", str(tmp_path / "data"), str(path))
        expected = np.where(is_known, true, wrong)[split == "test"]
        labels = sources.read_labels(source, "test")
        assert [source.class_names[label] for label in labels] == expected.tolist()
        np.testing.assert_array_equal(sources.read_labels(source, "test", "given_label"), labels)
        given = sources.read_labels(source, "train", "given_label")
        assert [source.class_names[label] for label in given] == np.array(wrong)[split == "train"].tolist()


def test_human_labels_whose_order_is_not_certain_are_refused(tmp_path):
    raw_data.image_folder(tmp_path / "raw", splits={"train": 12, "test": 1})
    for path in (tmp_path / "raw/train").glob("*/*"):
        path.rename(path.with_name(f"{int(path.stem)}.jpg"))
    dataset = sources.load("image_folder", str(tmp_path / "data"), str(tmp_path / "raw"))
    numbered = np.array([int(Path(name).stem) for name in dataset.train.ids])
    assert numbered[:4].tolist() == [0, 1, 10, 11]
    clean = np.repeat([0, 1, 2], 12)
    np.savez(tmp_path / "grouped.npz", clean_label=clean, worse_label=np.tile(np.arange(12) % 3, 3))
    with pytest.raises(UsageError, match="grouped by class, but the numbers in its file names are in another"):
        human_labels(str(tmp_path / "grouped.npz"), dataset)
    order = np.random.default_rng(0).permutation(36)
    places = [np.flatnonzero(clean[order] == c)[k] for c, k in zip(dataset.train.labels, numbered, strict=True)]
    np.savez(tmp_path / "mixed.npz", clean_label=clean[order], place=np.arange(36) % 3)
    found = human_labels(str(tmp_path / "mixed.npz"), dataset)["place"]
    np.testing.assert_array_equal(found, np.array(places) % 3)


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_pickles_of_human_labels_are_refused_with_a_conversion(suffix):
    with pytest.raises(UsageError, match=r"numpy.savez\('labels.npz', .*of a published file that you trust"):
        human_labels(f"CIFAR-10_human.{suffix}", None)
