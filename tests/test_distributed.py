"""Several processes are one: on loopback, each with its own devices."""

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
