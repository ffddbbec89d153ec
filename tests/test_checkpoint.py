"""Checkpoints: what they hold, and what happens when they, the disk or the folder are not as they should be."""

import itertools
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train import small_config

from cmwnet_jax import files
from cmwnet_jax.core.types import MetaState
from cmwnet_jax.errors import UsageError
from cmwnet_jax.runs import run_folder
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.loop import train
from cmwnet_jax.transfer import orbax_folder


def state(value=0.0, width=200, **more):
    """A state of arrays that differ with `value`, in several dtypes."""
    params = {"kernel": jnp.linspace(0, 1, 100 * width).reshape(100, width) ** 2 + value, **more}
    return MetaState.create(
        params=params,
        model_state={"mean": jnp.full(3, value, jnp.bfloat16)},
        optimizer=optax.sgd(0.1, momentum=0.9),
        rng=jax.random.key(7),
    )


def epoch_of(number):
    """Arrays of an epoch under way, in the dtypes that there are; their lengths differ with `number`."""
    return {
        "meta_set_rows": np.arange(7, dtype=np.int64) << 33,
        "meta_set_labels": np.full((7, 3), 1 / 3, np.float32),
        "steps_loss": np.linspace(0, 1, number, dtype=np.float32),
        "steps_losses": np.random.default_rng(number).random((number, 500), np.float32),
    }


def saved(folder, keep=2, numbers=(2, 4, 6)):
    """A folder of checkpoints, each with its number as `value`."""
    with Checkpoints(folder, keep) as checkpoints:
        for number in numbers:
            checkpoints.save(number, state(number), epoch=epoch_of(number))
    return folder


def restored(folder, template=None):
    with Checkpoints(folder, 2) as checkpoints:
        return checkpoints.restore(template or state())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def check_epoch(got, expected):
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def check_equal(got, expected):
    got, expected = (s.replace(rng=jax.random.key_data(s.rng)) for s in (got, expected))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_the_newest_few_are_kept_and_come_back_as_they_were(tmp_path):
    folder = saved(tmp_path / "checkpoints")
    assert names(folder) == ["4", "6"]
    number, got, epoch = restored(folder, state().replace(rng=jax.random.key(0)))
    assert number == 6
    check_equal(got, state(6))
    check_epoch(epoch, epoch_of(6))
    assert restored(tmp_path / "empty")[0] == 0


def test_at_an_epochs_edge_there_is_no_epoch(tmp_path):
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(3, state(3), epoch={})
    assert restored(tmp_path).epoch == {}
    assert not (tmp_path / "3" / "epoch").exists()


def truncated(name):
    return lambda folder: os.truncate(largest_file(folder / name), 500)


def with_a_bit_flipped(name):
    def damage(folder):
        file = largest_file(folder / name)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return damage


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def without(name):
    return lambda folder: shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    "damage",
    [empty, without("contents")]
    + [damage(name) for name in ("state", "epoch") for damage in (truncated, with_a_bit_flipped, without)],
)
def test_a_damaged_checkpoint_is_passed_over_and_kept_aside(damage, tmp_path):
    folder = saved(tmp_path / "checkpoints")
    damage(folder / "6")
    with Checkpoints(folder, 2) as checkpoints:
        with pytest.warns(UserWarning, match=r"damaged checkpoints .*: going on from the one before, 4"):
            number, got, epoch = checkpoints.restore(state())
        assert number == 4
        check_equal(got, state(4))
        check_epoch(epoch, epoch_of(4))
        checkpoints.save(6, state(60))  # training on arrives there again
    assert names(tmp_path / "damaged_checkpoints") == ["6"]
    check_equal(restored(folder)[1], state(60))


def unsealed(folder):
    """As checkpoints of earlier versions are, without checksums of their files."""
    for file in folder.rglob("checksums.json"):
        file.unlink()
    return folder


@pytest.mark.parametrize(
    "damage", [truncated("state"), with_a_bit_flipped("state"), with_a_bit_flipped("epoch")]
)
def test_checkpoints_of_earlier_versions_restore_or_are_passed_over(damage, tmp_path):
    folder = unsealed(saved(tmp_path / "checkpoints"))
    assert restored(folder)[0] == 6
    damage(folder / "6")
    with pytest.warns(UserWarning, match="going on from the one before, 4"):
        number, got, _ = restored(folder)
    assert number == 4
    check_equal(got, state(4))


def change(content, how, rng):
    """A file's content with one byte or bit changed, or half of it gone, or all."""
    place = rng.integers(len(content))
    if how == "cut":
        return content[:place]
    if how == "emptied":
        return b""
    added = rng.integers(1, 256) if how == "a byte" else content[place] ^ 1 << rng.integers(8)
    changed = (content[place] + added) % 256 if how == "a byte" else added
    return content[:place] + bytes([changed]) + content[place + 1 :]


def test_whatever_happens_to_a_file_what_restores_is_right(tmp_path):
    """Each of a checkpoint's files, changed in one of five ways by turns; Orbax's own are not all looked at."""
    rng, tiny = np.random.default_rng(0), lambda number: state(number, width=2)
    with Checkpoints(tmp_path / "whole" / "checkpoints", 2) as checkpoints:
        for number in (4, 6):
            checkpoints.save(number, tiny(number), epoch=epoch_of(number))
    files = sorted(path for path in (tmp_path / "whole/checkpoints/6").rglob("*") if path.is_file())
    assert len(files) > 20
    ways = itertools.cycle(["a byte", "a bit", "cut", "gone", "emptied"])
    for place, (file, how) in enumerate(zip(files + files, ways, strict=False)):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / str(place))
        changed = copy / file.relative_to(tmp_path / "whole")
        changed.unlink() if how == "gone" else changed.write_bytes(change(file.read_bytes(), how, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number, got, epoch = restored(copy / "checkpoints", tiny(0))
        in_item = file.parent.name != "6" and file.name != "checksums.json"
        assert number in ((4,) if in_item else (4, 6)), (changed, how)
        check_equal(got, tiny(number))
        check_epoch(epoch, epoch_of(number))
        assert (copy / "damaged_checkpoints" / "6").exists() == (number == 4)


@pytest.mark.parametrize("name", ["lr=[0.1]", "[!a]*?{b,c}", "a\\b", "gs:", "a\nb", "\udcff"])
def test_a_folder_may_have_any_name(name, tmp_path):
    folder = saved(tmp_path / name / "checkpoints")
    assert names(tmp_path / name) == ["checkpoints"]
    assert names(folder) == ["4", "6"]
    number, got, epoch = restored(folder)
    assert number == 6
    check_equal(got, state(6))
    check_epoch(epoch, epoch_of(6))
    with_a_bit_flipped("state")(folder / "6")
    with pytest.warns(UserWarning, match="going on from the one before, 4"):
        assert restored(folder)[0] == 4
    assert names(tmp_path / name / "damaged_checkpoints") == ["6"]


def test_arrays_that_were_not_written_are_noticed_before_the_checkpoint_appears(tmp_path, monkeypatch):
    """As Orbax does where it takes the folder's path for a pattern."""
    monkeypatch.setattr(orbax_folder, "_PLAIN", re.compile(".*"))
    with pytest.raises(UsageError, match="Orbax has written no arrays into .*/(state|epoch)"):
        saved(tmp_path / "lr=[0.1]" / "checkpoints", numbers=(2,))
    monkeypatch.undo()
    assert restored(tmp_path / "lr=[0.1]" / "checkpoints")[0] == 0


def test_an_older_checkpoint_under_a_newer_number_is_damaged(tmp_path):
    folder = saved(tmp_path / "checkpoints")
    shutil.copytree(folder / "4", folder / "8")
    with pytest.warns(UserWarning, match=r"8: contents is of steps_done 4\): going on from the one before, 6"):
        number, got, _ = restored(folder)
    assert number == 6
    check_equal(got, state(6))
    assert names(tmp_path / "damaged_checkpoints") == ["8"]


def test_a_file_where_a_folder_belongs_is_named(tmp_path):
    folder = saved(tmp_path / "checkpoints")
    (folder / "8").touch()
    with pytest.raises(UsageError, match="checkpoints/8' is a file where a checkpoint belongs: move it away"):
        restored(folder)
    (folder / "8").unlink()
    truncated("state")(folder / "6")
    (tmp_path / "damaged_checkpoints").touch()
    with pytest.raises(UsageError, match=r"damaged checkpoints is '.*/damaged_checkpoints', which is a file"):
        restored(folder)
    assert names(folder) == ["4", "6"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"checkpoints is '.*/file', which is a file, expected a folder"):
        restored(tmp_path / "file")


@pytest.mark.parametrize("name", ["", "/checkpoints", "/damaged_checkpoints", "/tensorboard", "/.lock"])
def test_what_stands_in_a_runs_way_is_named_before_anything_is_written(name, tmp_path):
    place = tmp_path / f"run{name}"
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place) if name.endswith(".lock") else place.touch()
    before = sorted(tmp_path.rglob("*"))
    found = (
        "a named pipe, expected a regular file" if name.endswith(".lock") else "is a file, expected a folder"
    )
    with pytest.raises(UsageError, match=f"{place}.*{found}"):
        train(small_config(), tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("workdir", ["", "gs://bucket/run", "s3://bucket/run", "x" * 300])
def test_a_workdir_that_is_no_local_path_is_refused_before_anything_is_written(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^workdir is .*expected"):
        train(small_config(), workdir)
    assert names(tmp_path) == []


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    folder = saved(tmp_path / "checkpoints")
    for number in ("4", "6"):
        truncated("state")(folder / number)
    with pytest.raises(UsageError, match=r"all of them damaged \(6: .*; 4: .*remove the workdir to start over"):
        restored(folder)
    assert names(tmp_path) == ["checkpoints"]
    assert names(folder) == ["4", "6"]


def test_a_half_written_checkpoint_is_none(tmp_path):
    """What a process leaves that is killed while it writes."""
    folder = saved(tmp_path / "checkpoints")
    os.rename(folder / "6", folder / "6.orbax-checkpoint-tmp")
    (folder / "6.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)
    with Checkpoints(folder, 2) as checkpoints:
        assert checkpoints.restore(state())[0] == 4
        checkpoints.save(6, state(6))
    assert names(folder) == ["4", "6"]


def test_a_checkpoint_of_another_architecture_says_which_arrays_differ(tmp_path):
    folder = saved(tmp_path / "checkpoints")
    with pytest.raises(UsageError) as raised:
        restored(folder, state(width=300, bias=jnp.zeros(4)))
    assert "checkpoints/6' of another architecture than the config's" in str(raised.value)
    for text in (
        "params/kernel: found (100, 200) float32, expected (100, 300) float32",
        "params/bias: found nothing, expected (4,) float32",
        "opt_state/0/trace/kernel: found (100, 200) float32, expected (100, 300) float32",
    ):
        assert text in str(raised.value)
    assert "model_state" not in str(raised.value)
    assert names(folder) == ["4", "6"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of its own, of 1 MB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's other threads
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_is_named_and_the_checkpoint_before_restores(foreseen, tiny_disk, monkeypatch):
    """Seen before writing, or, under a quota for example, in the middle of it."""
    if not foreseen:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))
    monkeypatch.setattr("cmwnet_jax.train.checkpoint._SPARE_BYTES", 1 << 17)
    folder = RunFolder(tiny_disk / "run")
    noise = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)  # which does not compress
    states = {number: state(number, noise=jnp.asarray(noise)) for number in range(1, 6)}
    with (
        pytest.raises(
            UsageError, match=r"workdir is .*/disk/run', whose disk is full .*: make room and give the"
        ),
        folder.writing(small_config()),
        Checkpoints(folder.checkpoints, 4) as checkpoints,
    ):
        for number in states:
            checkpoints.save(number, states[number])
    number, got, _ = restored(folder.checkpoints, states[1])
    assert number >= 1
    check_equal(got, states[number])


def test_a_disk_that_fills_while_metrics_are_written_loses_nothing(tmp_path, monkeypatch):
    config = small_config(num_epochs=3, checkpoint__every_epochs=1)
    append = RunFolder.append_metrics

    def failing(folder, metrics):
        if metrics["epoch"] == 1:
            (folder.path / "metrics.jsonl").open("a").write('{"epoch": 1, "loss"')  # as far as it came
            raise OSError(28, os.strerror(28))
        append(folder, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "append_metrics", failing)
        with pytest.raises(UsageError, match="whose disk is full"):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert [line["epoch"] for line in RunFolder(tmp_path / "run").metrics()] == [0, 1, 2]


def test_a_second_process_in_the_folder_is_sent_away(tmp_path):
    config, folder = small_config(), RunFolder(tmp_path / "run")
    with folder.writing(config):
        before = names(tmp_path / "run")
        with pytest.raises(UsageError, match=rf"another process \(pid {os.getpid()}, host .*\) is running"):
            train(config, tmp_path / "run")
        assert names(tmp_path / "run") == before
    with folder.writing(config):
        pass


def test_metrics_that_are_missing_are_noticed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start(small_config(), 0)
    folder.append_metrics({"epoch": 0})
    folder.start(small_config(), 1)
    with pytest.raises(UsageError, match="metrics.jsonl has 1 of the 2 epochs"):
        folder.start(small_config(), 2)
    assert folder.metrics() == [{"epoch": 0}]


def test_files_are_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_result({"a": 1})

    def full(file):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError):
        folder.write_result({"a": 2})
    assert names(Path(tmp_path)) == ["result.json"]
    assert (tmp_path / "result.json").read_text() == '{\n  "a": 1\n}\n'
