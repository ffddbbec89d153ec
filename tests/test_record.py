"""A saved bias comes back exactly, or not at all."""

import json
import os

import numpy as np
import pytest
from bias_laws import apply, clean

from cmwnet_jax.data import bias, meta_set
from cmwnet_jax.data.bias_record import Record, load_record, save_record
from cmwnet_jax.errors import UsageError

TRUE = clean().true


def make_record(name: str = "long_tail_10+asymmetric_40", seed: int = 7, **extras) -> Record:
    labels = apply(name, clean(), seed)
    return Record(labels, name, seed, "cifar10", **extras)


def load(folder, dataset="cifar10", true_labels=TRUE) -> Record:
    return load_record(folder, dataset=dataset, true_labels=true_labels)


def assert_equal(got, expected) -> None:
    """Values and dtypes of two dataclasses, arrays and nested dataclasses among their fields."""
    for name, value in vars(expected).items():
        if hasattr(value, "__dataclass_fields__"):
            assert_equal(getattr(got, name), value)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(got, name), value, strict=True)
        else:
            assert getattr(got, name) == value and type(getattr(got, name)) is type(value)


@pytest.mark.parametrize(
    "name", ["long_tail_10+asymmetric_40", "pmd1_35+uniform_30", "open_set_40", "long_tail_10+human_worse"]
)
def test_round_trip(tmp_path, name):
    """Whatever a bias needed (a posterior, annotators), a run from its record needs none of it."""
    record = make_record(name)
    save_record(tmp_path / "new" / "run", record, TRUE)
    assert_equal(load(tmp_path / "new" / "run"), record)


def test_round_trip_with_all_that_is_optional(tmp_path):
    held_out, left = meta_set.hold_out(clean(), 10, 0)
    labels = bias.apply("partial_10", left, "cifar10", 0)
    record = Record(
        labels,
        "partial_10",
        0,
        "cifar10",
        held_out=held_out,
    )
    save_record(tmp_path, record, TRUE)
    assert record.labels.candidates.any()
    assert_equal(load(tmp_path), record)


def test_says_what_the_bias_is(tmp_path):
    record = make_record()
    save_record(tmp_path, record, TRUE)
    fields = json.loads((tmp_path / "bias.json").read_text())
    assert fields["name"] == "long_tail_10+asymmetric_40" and fields["seed"] == 7
    assert fields["dataset"] == "cifar10" and fields["num_examples"] == len(record.labels.ids)
    assert fields["wrong_rate"] == record.labels.wrong_rate
    assert fields["class_counts"] == record.labels.class_counts.tolist()
    arrays = np.load(tmp_path / "bias.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["transition_matrix"], record.labels.transition_matrix)


def test_equal_biases_have_equal_files(tmp_path):
    for folder in "ab":
        save_record(tmp_path / folder, make_record(), TRUE)
    save_record(tmp_path / "c", make_record(seed=8), TRUE)
    for name in ("bias.json", "bias.npz"):
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b != c


def test_unknown_truth_round_trip(tmp_path):
    labels = bias.BiasedLabels.clean(TRUE, 10, truth_known=False)
    record = Record(labels, "none", 0, "web")
    save_record(tmp_path, record, TRUE)
    assert json.loads((tmp_path / "bias.json").read_text())["wrong_rate"] is None
    assert_equal(load(tmp_path, dataset="web"), record)


def test_a_second_record_replaces_the_first(tmp_path):
    save_record(tmp_path, make_record(), TRUE)
    second = make_record("symmetric_20")
    save_record(tmp_path, second, TRUE)
    assert_equal(load(tmp_path), second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bias.json", "bias.npz"]


def test_refuses_another_data_set(tmp_path):
    save_record(tmp_path, make_record(), TRUE)
    with pytest.raises(UsageError, match="is of the data set 'cifar10', expected 'cifar100'"):
        load(tmp_path, dataset="cifar100")
    other_order = np.roll(TRUE, 1)
    for labels in (other_order, TRUE[:-1], np.r_[TRUE, 0]):
        with pytest.raises(UsageError, match="other labels or another order"):
            load(tmp_path, true_labels=labels)


def test_does_not_mind_how_the_labels_are_held(tmp_path):
    save_record(tmp_path, make_record(), TRUE.astype(np.int64))
    load(tmp_path, true_labels=TRUE.astype(">i2"))


@pytest.mark.parametrize("labels", [np.roll(TRUE, 1), TRUE[:10]])
def test_is_not_saved_for_another_data_set(tmp_path, labels):
    with pytest.raises(UsageError, match="true labels that are not those of cifar10"):
        save_record(tmp_path / "run", make_record(), labels)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["bias.json", "bias.npz"])
def test_refuses_missing_files(tmp_path, name):
    save_record(tmp_path, make_record(), TRUE)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"lacks {name}"):
        load(tmp_path)


def test_refuses_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save_record(tmp_path / "file", make_record(), TRUE)
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "file")


@pytest.mark.parametrize("name", ["bias.json", "bias.npz"])
def test_refuses_damaged_files(tmp_path, name):
    save_record(tmp_path, make_record(), TRUE)
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:-1], whole[: len(whole) // 2], whole + b"x", b"\xff\xfe" + whole, b"[]", b"null"]
    for position in rng.integers(len(whole), size=60):
        changed = bytes([whole[position] ^ 1 << int(rng.integers(8))])
        damaged.append(whole[:position] + changed + whole[position + 1 :])
    for contents in damaged:
        (tmp_path / name).write_bytes(contents)
        # White space at the JSON's end is no damage.
        if name == "bias.json" and contents.strip() == whole.strip():
            continue
        with pytest.raises(UsageError, match="the record in"):
            load(tmp_path)
    (tmp_path / name).write_bytes(whole)
    load(tmp_path)


@pytest.mark.parametrize(
    "field", ["name", "seed", "wrong_rate", "class_counts", "meta_class_centers", "checksum"]
)
def test_refuses_edited_fields(tmp_path, field):
    save_record(tmp_path, make_record(), TRUE)
    fields = json.loads((tmp_path / "bias.json").read_text())
    fields[field] = 0
    (tmp_path / "bias.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="damaged or edited"):
        load(tmp_path)


def test_refuses_halves_of_two_records(tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        save_record(tmp_path / folder, make_record(seed=seed), TRUE)
    (tmp_path / "a" / "bias.npz").replace(tmp_path / "b" / "bias.npz")
    with pytest.raises(UsageError, match="they are of two records"):
        load(tmp_path / "b")


def test_refuses_later_formats(tmp_path):
    save_record(tmp_path, make_record(), TRUE)
    fields = json.loads((tmp_path / "bias.json").read_text()) | {"format": 2}
    (tmp_path / "bias.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="format 2, expected 1"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["bias.json", "bias.npz"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_is_not_waited_for(name, make, tmp_path):
    save_record(tmp_path, make_record(), TRUE)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot be read \(.*\): make the bias anew"):
        load(tmp_path)


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    save_record(tmp_path, make_record(), TRUE)
    (tmp_path / "bias.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read .*nested too deeply"):
        load(tmp_path)
