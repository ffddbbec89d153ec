"""Runs that are killed or asked to stop at random moments end as those that never were, bit for bit.

Three SIGKILLs here; ten, on both input paths, with `pytest -m slow tests/test_kill.py`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from test_train import ROOT, final_arrays, small_config

from cmwnet_jax.errors import Preempted
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.preemption import StopRequests
from cmwnet_jax.transfer import load_weight_net

_CONFIG = """
from test_train import small_config
def get_config(arg):
    return small_config(num_epochs=24, data__path=arg)
"""
_KILL, _TERM = signal.SIGKILL, signal.SIGTERM


def start(tmp_path, path, workdir):
    """The command, on as many devices as the tests have."""
    arguments = [f"--config={tmp_path / 'config.py'}:{path}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [sys.executable, "-m", "cmwnet_jax.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def epochs_done(workdir):
    metrics = workdir / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def strike(process, workdir, number, epochs, delay):
    """Sends a signal once this launch has done so many epochs, and a little later; its status and output."""
    reader = threading.Thread(target=lambda: outputs.append(process.stdout.read()))
    outputs = []
    reader.start()
    while epochs_done(workdir) < epochs and process.poll() is None:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    status = process.wait(timeout=120)
    reader.join()
    return status, outputs[0]


def compare(tmp_path, config, whole, struck):
    """Every array of the last checkpoint, the weight net alone, the metrics, and the last weights."""
    pairs = zip(final_arrays(config, whole), final_arrays(config, struck), strict=True)
    for (path, expected), (_, got) in pairs:
        np.testing.assert_array_equal(got, expected, err_msg=jax.tree_util.keystr(path))
    expected, got = load_weight_net(whole), load_weight_net(struck)
    jax.tree.map(np.testing.assert_array_equal, got.weight_params, expected.weight_params)
    assert (got.loss_range, got.provenance) == (expected.loss_range, expected.provenance)
    assert timeless_metrics(struck) == timeless_metrics(whole)
    with np.load(whole / "weights.npz") as expected, np.load(struck / "weights.npz") as got:
        assert set(expected) == set(got)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def timeless_metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def run_under_fire(tmp_path, path, signals):
    (tmp_path / "config.py").write_text(_CONFIG)
    config = small_config(num_epochs=24, data__path=path)
    train(config, tmp_path / "whole")
    rng, workdir, done, history = random.Random(), tmp_path / "struck", 0, []
    for i, number in enumerate(signals):
        last = config.num_epochs - 10  # so that no signal comes when all is over
        epochs = rng.randint(done + 1, done + max(1, (last - done) // (len(signals) - i)))
        status, output = strike(start(tmp_path, path, workdir), workdir, number, epochs, rng.uniform(0, 0.1))
        assert not (workdir / "result.json").exists(), "it was over before the signal came"
        if number == _KILL:
            assert status == -_KILL, output
        else:
            assert status == os.EX_TEMPFAIL == 75, output
            assert f"{epochs_done(workdir)} of 24 epochs are done and saved in {workdir}" in output
            assert (workdir / "checkpoints" / str(epochs_done(workdir))).is_dir()
        done = min(epochs_done(workdir), last - 1)
        history.append((number.name, epochs_done(workdir)))
    process = start(tmp_path, path, workdir)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    print(path, history)
    compare(tmp_path, config, tmp_path / "whole", workdir)


@pytest.mark.whole_runs
@pytest.mark.parametrize(
    ("path", "signals"), [("device", (_KILL, _KILL, _KILL, _TERM)), ("stream", (_KILL, _TERM))]
)
def test_a_run_under_fire_ends_as_one_in_peace(path, signals, tmp_path):
    run_under_fire(tmp_path, path, signals)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["device", "stream"])
def test_ten_kills(path, tmp_path):
    run_under_fire(tmp_path, path, (_KILL,) * 10 + (_TERM,))


def test_the_second_signal_stops_at_once_and_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT)
    with StopRequests() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        assert str(stop.preempted(3, 7, "w")).startswith("SIGINT came; 3 of 7 epochs are done and saved in w")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(stop.preempted(3, 7, "w"), Preempted)


def test_threads_hear_no_signals_and_do_not_mind():
    heard = []

    def run():
        with StopRequests() as stop:
            heard.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [False]
