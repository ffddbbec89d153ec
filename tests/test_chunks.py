"""Chunks of steps: a run may stop, be checked and be saved inside an epoch, and its numbers stay the same."""

import json
import re

import jax
import numpy as np
import pytest
from test_checkpoint import with_a_bit_flipped
from test_kill import compare, newest
from test_train import small_config

from cmwnet_jax.core.loss_history import LossHistory
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import Preempted, TrainingDiverged
from cmwnet_jax.train import clock as clock_module
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.epoch import Epoch, saved_reports, saved_selection
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.train.trainer import Trainer


def epoch_of(steps, reported=(), meta_set=None):
    rows = {"train": np.tile(np.array([0, 1], np.int32), (steps, 1))}
    chosen = {} if meta_set is None else {"meta": meta_set}
    history = LossHistory.create(2, on_host=True)
    return Epoch(3, "train", rows, np.zeros(steps, bool), chosen, {}, dict(reported), history, history)


def reported(steps):
    """What a chunk of steps with these numbers reports."""
    numbers = np.array(steps, np.float32)
    return {"loss": numbers, "losses": numbers[:, None] + [0.25, 0.5], "weights": numbers[:, None] * [1, 2]}


def test_chunks_end_at_multiples_and_at_the_epochs_end():
    epoch, seen = epoch_of(11), []
    while not epoch.is_over:
        steps = range(11)[epoch.chunk(4)]
        seen.append(list(steps))
        epoch = epoch.extended(reported(steps))
        assert epoch.run_steps_done == 3 * 11 + steps[-1] + 1
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    for name, values in reported(range(11)).items():
        np.testing.assert_array_equal(epoch.reported[name], values)
    assert set(epoch.scalars) == {"loss"}
    assert epoch.loss_range() == {"loss_min": 0.25, "loss_max": 10.5}
    assert epoch.loss_history.mean.tolist() == [5.25, 5.5] and epoch.loss_history.count.tolist() == [11, 11]
    assert set(epoch.arrays()) == {
        f"{kind}_history_{part}" for kind in ("loss", "margin") for part in ("total", "count")
    }
    inside = epoch_of(11, reported(range(6)))
    assert range(11)[inside.chunk(4)] == range(6, 8)


@pytest.mark.parametrize("meta_set", [None, Selection(np.arange(3), np.eye(3, dtype=np.float32))])
def test_an_epochs_arrays_are_what_it_goes_on_with(meta_set):
    arrays = epoch_of(11, reported(range(6)), meta_set).arrays()
    got = saved_selection("meta", arrays)
    assert (got is None) == (meta_set is None)
    for field, expected in () if meta_set is None else meta_set._asdict().items():
        np.testing.assert_array_equal(getattr(got, field), expected)
    assert saved_reports(arrays).keys() == reported([0]).keys()
    assert epoch_of(11, saved_reports(arrays)).steps_done == 6
    assert saved_selection("meta", {}) is None
    assert saved_reports({}) == {}


def stop_after(chunks, monkeypatch):
    """Asks to stop at the end of a launch's so many-th chunk, or at the epoch's edge that follows it."""
    asked = iter(range(1, 10_000))
    monkeypatch.setattr(StopRequests, "requested", property(lambda stop: next(asked) >= chunks))


def stopped(config, workdir, chunks, monkeypatch):
    """(epochs done, steps of the next) as the message says, and as the newest checkpoint is numbered."""
    with monkeypatch.context() as patch, pytest.raises(Preempted) as raised:
        stop_after(chunks, patch)
        train(config, workdir)
    said = re.search(r"(\d+) of 3 epochs(?: and (\d+) of (\d+) steps of the next)? are", str(raised.value))
    epochs, steps, epoch_steps = (int(number or 0) for number in said.groups())
    assert newest(workdir) == epochs * 26 + steps
    assert epoch_steps in (0, 26)
    return epochs, steps


def config_of(**fields):
    """Three epochs of 26 steps, in two chunks; meta sets, which depend on all steps before, in two."""
    short = {"data__bias": "symmetric_40", "num_epochs": 3, "warmup_epochs": 1, "checkpoint__every_epochs": 9}
    return small_config(**(short | {"chunk_steps": 13, "meta_set__rank_by": "history"} | fields))


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory, data_dir):
    """The folder of a run that nobody has stopped."""
    workdir = tmp_path_factory.mktemp("in_peace") / "run"
    train(config_of(), workdir)
    return workdir


def test_a_run_that_is_stopped_inside_epochs_ends_as_one_in_peace(in_peace, tmp_path, monkeypatch):
    """In the warm-up, at an epoch's edge and in meta epochs; the last, damaged, goes on from the one before."""
    config, workdir = config_of(), tmp_path / "run"
    stops = [stopped(config, workdir, chunks, monkeypatch) for chunks in (1, 1, 1, 2)]
    assert stops == [(0, 13), (1, 0), (1, 13), (2, 13)]
    with_a_bit_flipped("epoch")(workdir / "checkpoints" / "65")
    with pytest.warns(UserWarning, match="going on from the one before, 39"):
        train(config, workdir)
    compare(tmp_path, config, in_peace, workdir)


def test_soft_labels_go_on_from_inside_an_epoch(tmp_path, monkeypatch):
    """Teacher and pseudo-labels are in the checkpoint, the latter shared out over four devices."""
    config = config_of(method="cmwnet_sl", soft_labels__dtype="bfloat16", warmup_epochs=0)
    train(config, tmp_path / "whole")
    assert stopped(config, tmp_path / "run", 3, monkeypatch) == (1, 13)
    train(config, tmp_path / "run")
    compare(tmp_path, config, tmp_path / "whole", tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all("teacher_test_accuracy_percent" in json.loads(line) for line in lines)


def test_a_streaming_run_that_is_stopped_inside_epochs_ends_as_one_whose_epochs_are_whole(
    tmp_path, monkeypatch
):
    """There a step is a program of its own: chunks change no bit."""
    whole, config = (config_of(data__path="stream", chunk_steps=steps, warmup_epochs=0) for steps in (26, 10))
    train(whole, tmp_path / "whole")
    assert stopped(config, tmp_path / "run", 5, monkeypatch) == (1, 20)
    train(config, tmp_path / "run")
    compare(tmp_path, config, tmp_path / "whole", tmp_path / "run")


def test_checkpoints_by_the_clock_are_inside_epochs_too_and_change_nothing(in_peace, tmp_path):
    train(config_of(checkpoint__every_minutes=1e-9, checkpoint__keep=99), tmp_path / "run")
    numbers = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert numbers == [epoch * 26 + steps for epoch in range(3) for steps in (13, 26)]
    compare(tmp_path, config_of(), in_peace, tmp_path / "run")


def test_a_run_that_diverges_is_stopped_within_the_chunk_and_says_where(tmp_path, monkeypatch):
    """At 0 and then at a huge learning rate: the second half of epoch 1 breaks."""
    config = config_of(
        method="erm",
        chunk_steps=4,
        checkpoint__every_minutes=1e-9,
        optimizer__decay_at_percent=(100 * 35 / 78,),
        optimizer__decay_factor=1e30,
    )
    chunks, run_chunk = [], Trainer.run_chunk

    def counted(trainer, state, epoch):
        chunks.append(epoch.run_steps_done)
        return run_chunk(trainer, state, epoch)

    monkeypatch.setattr(Trainer, "run_chunk", counted)
    with pytest.raises(TrainingDiverged, match=r"at step 3\d, .*checkpoints/34\. The same config") as raised:
        train(config, tmp_path / "run")
    step = int(re.search(r"at step (\d+)", str(raised.value))[1])
    assert chunks[-1] <= step < chunks[-1] + 4
    data = load_data(config)
    named = re.search(r"training examples ([\d, ]+)", str(raised.value))[1]
    rows = build_recipe(config, data).orders["train"](step)
    assert {int(i) for i in named.split(", ")} <= set(data.biased.ids[rows].tolist())
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run" / "metrics.jsonl").open()] == [0]


def test_the_clock_adds_up_an_epochs_chunks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    def compile(seconds):
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", seconds)
        jax.monitoring.record_event_duration_secs("/jax/checkpoint/write/durations_sec", 1000)

    monkeypatch.setattr(clock_module, "_compiling", [70.0])
    clock = Clock()
    wait(5)
    compile(4)
    for compute, compiling in ((100, 60), (3, 0)):
        clock.start_epoch()
        for _ in range(2):
            with clock.compute():
                wait(compute)
                compile(compiling / 2)
            wait(1)
        expected = {"seconds": 2 * compute + 2, "seconds_compute": 2 * compute, "seconds_compile": compiling}
        assert clock.epoch_seconds() == expected
    expected = {"seconds": 215, "seconds_ready": 207, "seconds_compile": 64, "overhead_percent": 25}
    assert clock.summary() == expected
