"""Damaged prepared data sets are one sentence on both paths; what killed preparations left is removed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import raw_data

from cmwnet_jax.data import checksums, leftovers, sources
from cmwnet_jax.errors import UsageError


def prepare(tmp_path, name="data", seed=0) -> Path:
    """The folder of a prepared set of 12 and 6 images; other labels with another seed."""
    if not (tmp_path / f"raw{seed}").exists():  # gzip writes the time, too: others would be another set
        raw_data.mnist_folder(tmp_path / f"raw{seed}", seed=seed)
    return Path(sources.open("mnist_format", str(tmp_path / name), str(tmp_path / f"raw{seed}")).folder)


def by_device(tmp_path):
    train = sources.load("mnist_format", str(tmp_path / "data")).train
    return train.labels.tolist(), train.ids.tolist(), train.images.tolist()


def by_stream(tmp_path):
    source = sources.open("mnist_format", str(tmp_path / "data"))
    labels = sources.read_labels(source, "train").tolist()
    examples = list(source.train)
    images = [example["image"].tolist() for example in examples]
    return labels, [example["id"] for example in examples], images


PATHS = (by_device, by_stream)


def assert_damaged(read, tmp_path, folder) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert str(folder) in message and "is damaged (" in message and "remove that folder" in message
    assert "\n" not in message and len(message) < 700


def shard(folder, split="train") -> Path:
    return next(folder.glob(f"*-{split}.array_record*"))


def flip(path, position, bit=0x10) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


def cut(part):
    def change(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return change


def written(content):
    return lambda path: path.write_bytes(content)


CHANGES = {
    "gone": Path.unlink,
    "empty": written(b""),
    "half": cut(0.5),
    "nearly whole": cut(0.999),
    "object": written(b"{}"),
    "list": written(b"[]"),
    "text": written(b"no JSON"),
    "no UTF-8": written(b"\xff\xfe{}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


@pytest.mark.parametrize("old", [False, True], ids=["", "without checksums"])
@pytest.mark.parametrize("file", ["shard", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_damaged(tmp_path, change, file, old):
    folder = prepare(tmp_path)
    if old:
        (folder / checksums._NAME).unlink()
    CHANGES[change](shard(folder) if file == "shard" else folder / file)
    for read in PATHS:
        assert_damaged(read, tmp_path, folder)
    with pytest.raises(UsageError, match="remove that folder"):  # with the raw files at hand, too
        sources.load("mnist_format", str(tmp_path / "data"), str(tmp_path / "raw0"))
    shutil.rmtree(folder)
    assert len(sources.load("mnist_format", str(tmp_path / "data"), str(tmp_path / "raw0")).train) == 12


def test_a_file_where_the_folder_should_be(tmp_path):
    raw_data.write(tmp_path / "digits" / "1.1.0", b"")
    with pytest.raises(UsageError, match="digits/1.1.0' that is damaged"):
        sources.load("digits", str(tmp_path))


@pytest.mark.parametrize("read", PATHS)
def test_flipped_bits_are_noticed_or_harmless(tmp_path, read, monkeypatch):
    """Also in files too large to be read when a set is opened, where the records' own checksums must do."""
    folder = prepare(tmp_path)
    expected, rng = read(tmp_path), np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole, is_shard = path.read_bytes(), path.match("*array_record*")
        with monkeypatch.context() as patched:
            if is_shard:
                patched.setattr(checksums, "check_files", lambda folder: None)
            for position in rng.integers(1500 if is_shard else len(whole), size=25):
                flip(path, position, 1 << int(rng.integers(8)))
                try:
                    assert read(tmp_path) == expected
                except UsageError as error:
                    assert str(folder) in str(error)
                path.write_bytes(whole)
    assert read(tmp_path) == expected


@pytest.mark.parametrize("old", [False, True], ids=["", "without checksums"])
def test_the_streaming_paths_copy_of_the_labels_is_believed_only_where_it_is_right(tmp_path, old):
    folder = prepare(tmp_path)
    labels = by_device(tmp_path)[0]
    kept = folder / "labels-train.npy"
    if old:
        (folder / checksums._NAME).unlink()
    flip(kept, kept.stat().st_size - 4, 1)
    assert by_stream(tmp_path)[0] == labels
    np.save(kept, np.array(labels, np.int32)[::-1])
    assert by_stream(tmp_path)[0] == labels
    np.testing.assert_array_equal(np.load(kept), labels)


@pytest.mark.parametrize("read", PATHS)
def test_records_of_other_labels_are_noticed(tmp_path, read, monkeypatch):
    """Whole files, of another preparation: only the checksums of the labels can tell."""
    folder, other = prepare(tmp_path), prepare(tmp_path, "other", seed=1)
    shutil.copy(shard(other), shard(folder))
    assert_damaged(read, tmp_path, folder)
    monkeypatch.setattr(checksums, "check_files", lambda folder: None)  # as if too large to be read
    (folder / "labels-train.npy").unlink()
    with pytest.raises(UsageError, match="label of its split train: not what was prepared"):
        read(tmp_path)


def test_a_set_that_says_it_has_fewer_examples_is_noticed(tmp_path):
    folder = prepare(tmp_path)
    info = folder / "dataset_info.json"
    assert '"12"' in info.read_text()
    info.write_text(info.read_text().replace('"12"', '"11"'))
    for read in PATHS:
        assert_damaged(read, tmp_path, folder)


def test_sets_prepared_without_checksums_open_and_get_theirs(tmp_path):
    folder = prepare(tmp_path)
    first = (folder / checksums._NAME).read_text()
    for read in PATHS:
        (folder / checksums._NAME).unlink()
        read(tmp_path)
        splits = json.loads((folder / checksums._NAME).read_text())["splits"]
        assert splits.items() <= json.loads(first)["splits"].items() and "train" in splits
    (folder / checksums._NAME).write_text(first.replace("label", "lebal"))
    assert_damaged(by_device, tmp_path, folder)


def test_what_killed_preparations_left_is_removed_by_the_next(tmp_path):
    sets = tmp_path / "data" / "mnist_format"
    lefts = [sets / name for name in ("incomplete.AB12CD_1.0.0", "0123/incomplete.X")]
    for left in lefts:
        raw_data.write(left / "mnist_format-train.array_record-00000-of-00001", b"half")
    with leftovers.preparing(lefts[1].parent):  # somebody is still at it
        prepare(tmp_path)
        assert lefts[1].exists() and not lefts[0].exists()
    prepare(tmp_path)
    assert not lefts[1].parent.exists()
    assert len(list(sets.iterdir())) == 1
    assert len(by_device(tmp_path)[0]) == 12


def test_a_preparation_that_is_killed_leaves_nothing_for_ever(tmp_path):
    program = """
import os, signal
from cmwnet_jax.data import sources
from cmwnet_jax.data.builders import contents
contents.InMemory.examples = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sources.open("digits", "data")
"""
    env = {**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, timeout=100)
    assert killed.returncode == -9
    assert [path.name[:11] for path in (tmp_path / "data" / "digits").iterdir()] == ["incomplete."]
    assert len(sources.load("digits", str(tmp_path / "data")).train) == 1257
    assert len(list((tmp_path / "data" / "digits").iterdir())) == 1


def test_what_others_may_still_write_to_stays(tmp_path):
    left = tmp_path / "cifar10" / "incomplete.QWERTY_3.0.2"
    raw_data.write(left / "shard", b"half")
    leftovers.remove(tmp_path / "cifar10", idle_seconds=3600)
    assert left.exists()
    for path in (left / "shard", left):
        os.utime(path, (0, 0))
    leftovers.remove(tmp_path / "cifar10", idle_seconds=3600)
    assert not left.exists()
