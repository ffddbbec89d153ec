"""A run that is given more epochs goes on as if it had been given them at first, or is left as it was."""

import gc
import json
import shutil

import jax
import numpy as np
import pytest
from test_train import final_arrays, small_config

from cmwnet_jax.errors import UsageError
from cmwnet_jax.train import loop
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer

CONSTANT = {"optimizer__decay_at_percent": (), "checkpoint__every_epochs": 1, "warmup_epochs": 1}
ERM = {**CONSTANT, "method": "erm"}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def arrays_on_the_devices():
    """As after a run of a sweep, which trains many in one process."""
    jax.clear_caches()
    gc.collect()
    return len(jax.live_arrays())


class Stopped(Exception):
    pass


def stopped_after(epoch, config, folder, monkeypatch):
    report = loop._report

    def stopping(launch, board, bar, under_way, *others):
        report(launch, board, bar, under_way, *others)
        if under_way.number == epoch:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_report", stopping)
        with pytest.raises(Stopped):
            train(config, folder)


@pytest.mark.parametrize(
    ("changes", "finished"),
    [({"method": "cmwnet_sl"}, True), ({"optimizer__schedule": "warm_restarts"}, False)],
    ids=["finished, of soft labels", "unfinished, with restarts"],
)
def test_two_epochs_then_four_are_four_bit_for_bit(changes, finished, tmp_path, monkeypatch):
    changes = {**CONSTANT, **changes}
    short, long = (small_config(**changes, num_epochs=epochs) for epochs in (2, 4))
    whole = train(long, tmp_path / "whole")
    left = arrays_on_the_devices() if finished else None
    run = tmp_path / "run"
    if finished:
        train(short, run)
    else:
        stopped_after(1, short, run, monkeypatch)
    result = train(long, run)
    assert not finished or arrays_on_the_devices() <= left
    pairs = zip(final_arrays(long, tmp_path / "whole"), final_arrays(long, run), strict=True)
    for (path, expected), (_, got) in pairs:
        np.testing.assert_array_equal(got, expected, err_msg=jax.tree_util.keystr(path))
    assert metrics(run) == metrics(tmp_path / "whole")
    assert json.loads((run / "config.json").read_text())["num_epochs"] == 4
    same = ("test_accuracy_percent_last", "test_accuracy_percent_last10", "weight_auc_last10", "test_loss_last")
    assert {name: result[name] for name in same} == {name: whole[name] for name in same}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Makes a finished run of two epochs, once a config, and copies it."""
    folder, made = tmp_path_factory.mktemp("begun"), {}

    def begin(place, **changes):
        key = repr(changes)
        if key not in made:
            made[key] = folder / str(len(made))
            train(small_config(**changes, num_epochs=2), made[key])
        shutil.copytree(made[key], place)
        return contents(place)

    return begin


DECAYS = {**ERM, "optimizer__decay_at_percent": (50.0,)}
REFUSED = {
    "the learning rate": (DECAYS, {}, "since step .* at the learning rate 0.01 and would be at 0.1"),
    "a share": (
        {**ERM, "method": "ldam", "loss__reweight_at_percent": 60.0}, {},
        "since loss.reweight_at_percent is 60.0, which was step [0-9]+ and would be",
    ),
    "another field": (ERM, {"seed": 1}, r"finished run of another config \(seed was 0 and is 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_have_been_another_run_is_refused_and_left_as_it_was(kind, begun, tmp_path):
    changes, others, message = REFUSED[kind]
    before = begun(tmp_path / "run", **changes)
    with pytest.raises(UsageError, match=f"{message}.*model.init") as error:
        train(small_config(**{**changes, **others}, num_epochs=4), tmp_path / "run")
    assert str(error.value).isprintable()
    assert contents(tmp_path / "run") == before


CHANGED = {
    "inputs": "the files of data.name differ",
    "truth": "the data set's own labels, the given labels, the true labels, the files of data.name differ",
    "labels": "the given labels, the files of data.name differ",
    "fewer": "the data set's own labels, its examples, the given labels, the true labels, the files .* differ",
}


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_goes_on_only_with_the_data_that_it_began_with(finished, tmp_path, monkeypatch):
    """An audit's user corrects labels, and gives the same command again."""
    y = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    before = {"train_x": x, "train_y": y, "train_true": y, "test_x": x[:8], "test_y": y[:8]}
    after = {
        "inputs": {"train_x": x[[2, 1, 0, *range(3, 40)]]},
        "truth": {"train_y": 1 - y, "train_true": 1 - y},
        "labels": {"train_y": np.where(np.arange(40) == 7, 1 - y, y)},
        "fewer": {name: before[name][:38] for name in ("train_x", "train_y", "train_true")},
    }
    file, run = tmp_path / "own.npz", tmp_path / "run"
    fields = {"data__name": "arrays", "data__raw_dir": str(file), "data__dir": str(tmp_path / "data")}
    fields |= {**ERM, "data__bias": "none", "batch_size": 8}
    np.savez(file, **before)
    if finished:
        train(small_config(**fields, num_epochs=2), run)
    else:
        stopped_after(2, small_config(**fields, num_epochs=4), run, monkeypatch)
    held = contents(run)
    for kind, message in CHANGED.items():
        np.savez(file, **before | after[kind])
        with pytest.raises(
            UsageError, match=rf"other data than its config gives now \({message}\): bring back"
        ):
            train(small_config(**fields, num_epochs=4), run)
        assert contents(run) == held
    np.savez(file, **before)
    train(small_config(**fields, num_epochs=4), run)
    assert len(metrics(run)) == 4


def test_a_run_goes_on_only_with_the_other_sets_that_it_began_with(tmp_path):
    files = {name: str(tmp_path / f"{name}.npz") for name in ("own", "second", "foreign")}
    rng, y = np.random.default_rng(0), np.arange(40) % 2

    def write(name, labels=y[:8]):
        images = rng.integers(256, size=(40, 4, 4, 1), dtype=np.uint8)
        np.savez(files[name], train_x=images, train_y=y, test_x=images[:8], test_y=labels)

    for name in files:
        write(name)
    fields = {
        **ERM,
        "data__name": "arrays",
        "data__raw_dir": files["own"],
        "data__dir": str(tmp_path / "data"),
        "data__bias": "open_set_40",
        "data__known_as": "",
        "data__also_test": "arrays",
        "data__also_test_raw_dir": files["second"],
        "data__open_set_from": "arrays",
        "data__open_set_raw_dir": files["foreign"],
        "batch_size": 8,
    }
    train(small_config(**fields, num_epochs=2), tmp_path / "run")
    kept = {name: (tmp_path / f"{name}.npz").read_bytes() for name in files}
    changed = {
        "foreign": "the files of data.open_set_from differ",
        "second": "the files of data.also_test differ",
        "own": "the files of data.name, the test labels differ",
    }
    for name, message in changed.items():
        write(name, labels=1 - y[:8])
        with pytest.raises(UsageError, match=rf"than its config gives now \({message}\)"):
            train(small_config(**fields, num_epochs=3), tmp_path / "run")
        (tmp_path / f"{name}.npz").write_bytes(kept[name])
    (tmp_path / "run/bias.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="to go on without comparing .* remove bias.json and bias.npz"):
        train(small_config(**fields, num_epochs=3), tmp_path / "run")
    for name in ("bias.json", "bias.npz"):
        (tmp_path / "run" / name).unlink()
    train(small_config(**fields, num_epochs=3), tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == 3 and (tmp_path / "run/bias.npz").exists()


@pytest.mark.parametrize("epochs", [1, 2])
def test_as_many_epochs_or_fewer_are_a_finished_run(epochs, begun, tmp_path):
    before = begun(tmp_path / "run", **{**ERM, "warmup_epochs": 0})
    with pytest.raises(UsageError, match="holds a finished run"):
        train(small_config(**{**ERM, "warmup_epochs": 0}, num_epochs=epochs), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_finished_run_without_its_checkpoints_is_not_begun_again(begun, tmp_path):
    begun(tmp_path / "run", **ERM)
    shutil.rmtree(tmp_path / "run/checkpoints")
    before = contents(tmp_path / "run")
    with pytest.raises(UsageError, match="a finished run without a checkpoint to go on from"):
        train(small_config(**ERM, num_epochs=4), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_the_result_stays_until_the_run_goes_on(begun, tmp_path, monkeypatch):
    begun(tmp_path / "run", **ERM)
    before = (tmp_path / "run/result.json").read_bytes()

    def failing(*arguments):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", failing)
        with pytest.raises(Stopped):
            train(small_config(**ERM, num_epochs=3), tmp_path / "run")
    assert (tmp_path / "run/result.json").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_chunk", failing)
        with pytest.raises(Stopped):
            train(small_config(**ERM, num_epochs=3), tmp_path / "run")
    assert not (tmp_path / "run/result.json").exists()
    assert len(metrics(tmp_path / "run")) == 2
    assert "test_accuracy_percent_last" in train(small_config(**ERM, num_epochs=3), tmp_path / "run")


def test_a_decay_that_is_still_to_come_may_move(tmp_path, monkeypatch):
    """Of 4 epochs it is after the third: a run stopped after two may be made one of 8."""
    changes = {**ERM, "optimizer__decay_at_percent": (75.0,)}
    stopped_after(
        2, small_config(**changes, num_epochs=4), tmp_path / "run", monkeypatch
    )  # before its checkpoint
    train(small_config(**changes, num_epochs=8), tmp_path / "run")
    train(small_config(**changes, num_epochs=8), tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
