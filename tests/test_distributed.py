"""Several processes are one: on loopback, each with its own devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_together(commands, **environment):
    """Starts all, waits for all, and shows what the first that failed said."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
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
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, said, strict=True):
        assert process.returncode == 0, text[-4000:]
    return said


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_two_processes_of_two_devices_are_one_of_four(normalize, tmp_path):
    """Float64, 20 meta steps with synchronised normalisation, to 1e-10."""
    script, port = ROOT / "tests" / "process_of_two.py", free_port()
    ends = {}
    for processes in (1, 2):
        output = tmp_path / f"{processes}.npz"
        run_together([[script, port, processes, process, normalize, output] for process in range(processes)])
        ends[processes] = np.load(output)
    assert set(ends[1]) == {"params", "weight_params", "model_state", "meta_loss", "objective"}
    for name in ends[1]:
        np.testing.assert_allclose(ends[2][name], ends[1][name], rtol=0, atol=1e-10, err_msg=name)


def test_the_launcher_over_two_processes_is_the_launcher_over_one(tmp_path):
    """The same run, streamed too: the first process's folder has what one process's would have."""
    flags = [
        "--config=experiments/digits.py",
        "--config.num_epochs=12",
        "--config.batch_size=48",
        "--config.data.path=stream",
    ]
    results = {}
    for processes in (1, 2):
        port, workdir = free_port(), tmp_path / str(processes)
        joined = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
        run_together(
            [
                ["-m", "cmwnet_jax.train", *flags, f"--workdir={workdir}"]
                + (["--distributed", *joined, f"--process_id={process}"] if processes > 1 else [])
                for process in range(processes)
            ],
            XLA_FLAGS=f"--xla_force_host_platform_device_count={4 // processes}",
        )
        results[processes] = json.loads((workdir / "result.json").read_text())
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["12"]
    assert results[2]["devices"] == results[1]["devices"] == "4 x cpu"
    for field in ("test_loss_last", "test_accuracy_percent_last", "weight_auc_last10"):
        assert results[2][field] == pytest.approx(results[1][field], rel=1e-3)


def test_a_run_that_cannot_be_joined_is_one_sentence(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    done = subprocess.run(
        [sys.executable, "-m", "cmwnet_jax.train", "--config=experiments/digits.py", "--distributed", workdir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --distributed found no run to join")
    assert not (tmp_path / "run").exists()
