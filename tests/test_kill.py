"""Runs that are killed or asked to stop at random moments end as those that never were, bit for bit.

Their checkpoints are written every few steps, inside epochs as well as between them. A SIGKILL and a SIGTERM
here, on the path with more to restore; ten, on both, with `pytest -m slow tests/test_kill.py`.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from test_train import ROOT, final_arrays, small_config

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import Preempted
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.preemption import StopRequests, stop_if_asked
from cmwnet_jax.transfer import load_weight_net

_CONFIG = """
from test_kill import small_chunks
def get_config(arg):
    return small_chunks(arg)
"""
_KILL, _TERM = signal.SIGKILL, signal.SIGTERM


def small_chunks(path):
    """24 epochs of several chunks each, and a checkpoint after nearly each of them."""
    return small_config(num_epochs=24, data__path=path, chunk_steps=4, checkpoint__every_minutes=0.001)


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


def newest(workdir):
    """The number of the newest checkpoint: the steps that are done."""
    numbers = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return max(numbers, default=0)


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
    config = small_chunks(path)
    epoch_steps = build_recipe(config, load_data(config)).epoch_steps
    train(config, tmp_path / "whole")
    rng, workdir, done, history = random.Random(), tmp_path / "struck", 0, []
    for i, number in enumerate(signals):
        last = config.num_epochs - 10  # so that no signal comes when all is over
        epochs = rng.randint(done + 1, done + max(1, (last - done) // (len(signals) - i)))
        status, output = strike(start(tmp_path, path, workdir), workdir, number, epochs, rng.uniform(0, 0.3))
        assert not (workdir / "result.json").exists(), "it was over before the signal came"
        if number == _KILL:
            assert status == -_KILL, output
        else:
            assert status == os.EX_TEMPFAIL == 75, output
            assert f"{epochs_done(workdir)} of 24 epochs" in output
            said = re.search(r" came; (\d+) of 24 epochs(?: and (\d+) of (\d+) steps of the next)? are", output)
            assert said, output
            epochs, steps, of = (int(number or 0) for number in said.groups())
            assert of in (0, epoch_steps)
            assert newest(workdir) == epochs * epoch_steps + steps
        done = min(epochs_done(workdir), last - 1)
        history.append((number.name, divmod(newest(workdir), epoch_steps)))
    process = start(tmp_path, path, workdir)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    print(path, history)
    compare(tmp_path, config, tmp_path / "whole", workdir)


@pytest.mark.whole_runs
def test_a_run_under_fire_ends_as_one_in_peace(tmp_path):
    run_under_fire(tmp_path, "stream", (_KILL, _TERM))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["device", "stream"])
def test_ten_kills(path, tmp_path):
    run_under_fire(tmp_path, path, (_KILL,) * 10 + (_TERM,))


_EARLY = (0.3, 1.0, 2.0, 4.0)  # seconds after the start: imports, more of them, data, compiling


def test_a_signal_at_any_moment_of_the_start_ends_it_with_status_75_and_one_line(tmp_path):
    """And the next start is not spoilt; the tests above do the rest."""
    (tmp_path / "config.py").write_text(_CONFIG)
    for delay, number in zip(_EARLY, itertools.cycle((signal.SIGINT, _TERM))):
        process = start(tmp_path, "device", tmp_path / "run")
        time.sleep(delay)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == os.EX_TEMPFAIL, (delay, output)
        assert f"stopped: {number.name} came" in output and "Traceback" not in output, (delay, output)
    assert not (tmp_path / "run" / "result.json").exists()


_ASLEEP = """
import sys, threading, time
from cmwnet_jax.train import preemption, signals
signals.stop_at_once()
how = sys.argv[1]
print("ready", flush=True)
while how == "swallowing":
    try:
        time.sleep(10)
    except BaseException:
        pass
if how == "in C":
    import numpy as np
    x = np.ones((3000, 3000))
    while True:
        x @ x
with preemption.StopRequests() as stop:
    print("steps", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    time.sleep(1)
    print("deaf", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("how", ["swallowing", "in C", "twice"])
def test_nothing_swallows_a_signal(how):
    process = subprocess.Popen(
        [sys.executable, "-c", _ASLEEP, how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    if how == "twice":
        assert process.stdout.readline() == "steps\n"
        process.send_signal(signal.SIGTERM)
        assert "once more to stop without" in process.stdout.readline()
        assert process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == os.EX_TEMPFAIL, output
    assert output == "stopped: SIGTERM came; the same command goes on from what is saved\n"


def test_a_sweep_stops_behind_a_run_that_was_finished_when_the_signal_came():
    stop_if_asked()
    with StopRequests() as stop:
        stop._hear(signal.SIGTERM, None)
    with pytest.raises(Preempted, match="SIGTERM came, and the run that was going on is finished"):
        stop_if_asked()
    with StopRequests():
        pass
    stop_if_asked()


@pytest.fixture
def interruptible():
    """SIGINT as in a foreground process: one in the background may have been started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_second_signal_stops_at_once_and_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT)
    with StopRequests() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        for steps, message in (
            (12, "3 of 7 epochs are done and saved in w"),
            (14, "3 of 7 epochs and 2 of 4 steps of the next are done and saved in w"),
        ):
            assert str(stop.preempted(steps, 4, 7, "w")).startswith(f"SIGINT came; {message}")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(stop.preempted(12, 4, 7, "w"), Preempted)


def test_threads_hear_no_signals_and_do_not_mind():
    heard = []

    def run():
        with StopRequests() as stop:
            heard.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [False]
