"""Several processes are one: on loopback, each with its own devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import flags_for, launch_each

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_together(commands, status=0, while_running=lambda started: None, **environment):
    """Starts all, waits for all, and shows what the first that failed said."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONFAULTHANDLER": "1", **environment}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        while_running(started)
        said = [process.communicate(timeout=150)[0] for process in started]
    except subprocess.TimeoutExpired:
        for process in started:
            process.send_signal(signal.SIGABRT)
        raise AssertionError("\n\n".join(process.communicate()[0][-8000:] for process in started)) from None
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, said, strict=True):
        assert process.returncode == status, text[-4000:]
    return said


@pytest.mark.whole_runs
def test_two_processes_of_two_devices_are_one_of_four(tmp_path):
    """Float64, 20 meta steps with each synchronised normalisation, to 1e-10."""
    script, port = ROOT / "tests" / "process_of_two.py", free_port()
    ends = {}
    for processes in (1, 2):
        output = tmp_path / f"{processes}.npz"
        run_together([[script, port, processes, process, output] for process in range(processes)])
        ends[processes] = np.load(output)
    names = ("params", "weight_params", "model_state", "meta_loss", "objective")
    assert set(ends[1]) == {f"{normalize}/{name}" for normalize in ("sum", "mean") for name in names}
    for name in ends[1]:
        np.testing.assert_allclose(ends[2][name], ends[1][name], rtol=0, atol=1e-10, err_msg=name)


def launch(workdir, processes, path, **options):
    """The launcher on the digits over so many processes and four devices in all."""
    flags = [
        "--config=experiments/digits.py",
        "--config.num_epochs=6",
        "--config.warmup_epochs=2",
        "--config.method=cmwnet_sl",
        "--config.soft_labels.start_from=given",
        "--config.batch_size=48",
        "--config.chunk_steps=5",
        "--config.checkpoint.every_minutes=0.01",
        f"--config.data.path={path}",
        f"--workdir={workdir}",
    ]
    joined = ["--distributed", f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
    joined = joined if processes > 1 else []
    own = [[f"--process_id={process}"] if processes > 1 else [] for process in range(processes)]
    environment = {"XLA_FLAGS": flags_for(4 // processes)}
    return run_together(
        [["-m", "cmwnet_jax.train", *flags, *joined, *number] for number in own], **environment, **options
    )


def stop_after_two_epochs(workdir):
    """Sends SIGTERM to the second process alone, once the run is under way."""

    def stop(started):
        metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 200
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in started)
            time.sleep(0.05)
        started[1].send_signal(signal.SIGTERM)

    return stop


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("device", marks=pytest.mark.whole_runs),
        pytest.param("stream", marks=pytest.mark.slow),
    ],
)
def test_the_launcher_over_two_processes_stops_goes_on_and_is_the_launcher_over_one(path, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    launch(one, 1, path)
    said = launch(two, 2, path, status=75, while_running=stop_after_two_epochs(two))
    assert "saved in" in said[0]
    assert not (two / "result.json").exists()
    launch(two, 2, path)
    results = [json.loads((workdir / "result.json").read_text()) for workdir in (one, two)]
    newest = [
        max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*")) for workdir in (one, two)
    ]
    assert newest[0] == newest[1] > 12
    assert results[1]["devices"] == results[0]["devices"] == "4 x cpu"
    for field in ("test_loss_last", "test_accuracy_percent_last", "weight_auc_last10"):
        assert results[1][field] == pytest.approx(results[0][field], rel=1e-3)

    (two / "result.json").unlink()  # as if killed between the last checkpoint and the result
    launch(two, 2, path)
    again = json.loads((two / "result.json").read_text())
    assert again["test_loss_last"] == results[1]["test_loss_last"]


def test_a_run_that_cannot_be_joined_is_one_sentence(tmp_path):
    given = ["--config=experiments/digits.py", f"--workdir={tmp_path / 'run'}"]
    lost, alone = launch_each([[*given, "--distributed"], [*given, "--num_processes=2"]], tmp_path)
    assert lost.returncode == alone.returncode == 2
    assert lost.stderr.startswith("error: --distributed found no run to join")
    assert "go with --distributed" in alone.stderr
    assert not (tmp_path / "run").exists()
