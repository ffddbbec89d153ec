"""The script for an accelerator: its commands are valid; it keeps to its time, stops, continues and tells."""

import importlib
import json
import os
import signal
import sys
import time
import types

import pytest
from absl import flags
from ml_collections import config_flags

from cmwnet_jax import UsageError
from cmwnet_jax.runs import stored
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.preemption import StopRequests
from experiments import on_accelerator
from experiments.on_accelerator import Command, Question, Record, plan
from experiments.step_tasks import DTYPES, TASKS

DATA = ("--config.data.dir=prepared", "--config.data.name=image_folder", "--config.data.known_as=cifar10")


@pytest.mark.parametrize("miniature", [False, True])
def test_every_command_of_the_plan_is_a_valid_one(miniature, tmp_path, monkeypatch):
    """Modules exist, benchmarks name models and dtypes, and the launcher accepts configs and changes."""
    commands = [one for each in plan(tmp_path, DATA, miniature=miniature) for one in each.commands]
    assert len({one.name for one in commands}) == len({one.output for one in commands}) == len(commands)
    configs, steps = {}, set()
    for one in commands:
        module, *arguments = one.arguments
        assert importlib.util.find_spec(module) is not None
        given = dict(argument.lstrip("-").split("=", 1) for argument in arguments if argument.startswith("-"))
        if module == "experiments.benchmark_step":
            steps.add((given["models"], given["dtype"]))
            assert given["output"] == str(one.output)
        else:
            values = flags.FlagValues()
            config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
            argv = ["train", *(one for one in arguments if one.startswith("--config"))]
            monkeypatch.setattr(sys, "argv", argv)  # where changes of fields are read
            values(argv)
            check_config(values.config)
            configs[one.name] = values.config
    expected = TASKS if not miniature else ["mlp"]
    assert steps == {(model, dtype) for model in expected for dtype in DTYPES}
    cells = {
        name: (config.method, config.model.name, config.num_epochs, config.data.bias, config.data.name)
        for name, config in configs.items()
    }
    cmwnet, erm, noisy = (cells[name] for name in ("table1_cmwnet", "table1_erm", "table2_cmwnet"))
    if miniature:
        assert {cell[-1] for cell in cells.values()} == {"digits"}
    else:
        assert cells["data"] == cmwnet == ("cmwnet", "resnet32", 200, "long_tail_100", "image_folder")
        assert erm == ("erm", *cmwnet[1:])
        assert noisy == ("cmwnet", "preact_resnet18", 120, "asymmetric_60", "image_folder")


READY = """
import pathlib, signal, sys, time
output = pathlib.Path(sys.argv[1])
def ready(handler):
    signal.signal(signal.SIGTERM, handler)
    pathlib.Path("READY").touch()
    for _ in range(6000):  # a signal just before a long sleep would be handled after it
        time.sleep(0.01)
"""
SAVES = """
saved = output.with_suffix(".saved")
def save(*_):
    saved.touch()
    sys.exit(75)
if not saved.exists():
    ready(save)
print("continued")
output.touch()
"""


class Time:
    """Stands in for the module: 15 minutes are nearly over when a command is ready to be stopped."""

    def __init__(self, ready):
        self.ready, self.now = ready, 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(min(seconds, 0.01))
        if self.ready.exists():
            self.now = 890.0


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes commands of Python code, which get their output's path as an argument."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name, code):
        code = READY.replace("READY", str(tmp_path / "ready"), 1) + code
        (tmp_path / f"{name}.py").write_text(code)
        return Command(name, (name, str(tmp_path / f"{name}.out")), tmp_path / f"{name}.out")

    return make


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the script with a quarter of an hour; returns the record and the states, by name."""

    def called(*questions, clock=Time):
        (tmp_path / "ready").unlink(missing_ok=True)
        monkeypatch.setattr(on_accelerator, "time", clock(tmp_path / "ready"))
        record = Record(tmp_path, questions)
        record.begin({"command": "c", "started": "s", "minutes": 15, **on_accelerator.setting()})
        with StopRequests() as stop:
            on_accelerator.run(questions, record, 900.0, tmp_path / "logs", stop)
        contents = json.loads((tmp_path / "on_accelerator.json").read_text())
        return contents, {one["name"]: one["state"] for one in contents["commands"]}

    return called


def test_a_second_call_goes_on_where_the_first_stopped(stand_in, call, tmp_path):
    quick = stand_in("quick", "output.touch(); print('12.5 ms')")
    wrong = stand_in("wrong", "raise ValueError('no card')")
    slow, late = stand_in("slow", SAVES), stand_in("late", SAVES)
    questions = Question(1, (quick, wrong)), Question(2, (slow, late))
    contents, states = call(*questions)
    assert states == {"quick": "finished", "wrong": "failed", "slow": "stopped", "late": "not begun"}
    assert contents["commands"][2]["launches"][0]["exit_status"] == os.EX_TEMPFAIL
    assert "no card" in (tmp_path / "logs" / "wrong.err").read_text()
    stand_in("wrong", "output.touch()")
    contents, states = call(*questions)
    assert states == {"quick": "finished", "wrong": "finished", "slow": "finished", "late": "stopped"}
    assert [len(one["launches"]) for one in contents["commands"]] == [1, 2, 2, 1]
    assert len(contents["calls"]) == 2
    text = (tmp_path / "on_accelerator.md").read_text()
    assert "```text\n12.5 ms\n```" in text and "```text\ncontinued\n```" in text
    assert "| late | stopped |" in text and f"jax {contents['calls'][0]['versions']['jax']}" in text


class GoesOn(Time):
    """It passes from then on."""

    def sleep(self, seconds):
        before = self.now
        super().sleep(seconds)
        self.now = max(self.now, before + 5 * (before > 0))


def test_a_command_that_does_not_stop_is_killed_in_time(stand_in, call):
    contents, states = call(Question(1, (stand_in("deaf", "ready(signal.SIG_IGN)"),)), clock=GoesOn)
    assert states == {"deaf": "stopped"}
    (launch,) = contents["commands"][0]["launches"]
    assert launch["exit_status"] == -signal.SIGKILL and 900 <= launch["seconds"] <= 910


class Signalled(Time):
    """A signal comes, long before the time is over."""

    def sleep(self, seconds):
        time.sleep(min(seconds, 0.01))
        if self.ready.exists() and not self.now:
            self.now = 100.0
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_the_command_that_runs_and_begins_no_other(stand_in, call):
    questions = [Question(1, (stand_in(name, SAVES),)) for name in ("first", "second")]
    contents, states = call(*questions, clock=Signalled)
    assert states == {"first": "stopped", "second": "not begun"}
    assert contents["commands"][0]["launches"][0]["exit_status"] == os.EX_TEMPFAIL


def test_unused_time_is_left_to_later_questions(monkeypatch, tmp_path):
    """Three questions of equal shares, of which the first takes no time; one is finished already."""
    commands = [Command(name, (name,), tmp_path / name) for name in ("quick", "finished", "long", "last")]
    commands[1].output.touch()
    now, ends = [0.0], {}

    def launch(one, until, logs, stop):
        ends[one.name] = until
        now[0] = until if one.name == "long" else now[0]
        return {"seconds": 0, "stopped": True}

    monkeypatch.setattr(on_accelerator, "launch", launch)
    monkeypatch.setattr(on_accelerator, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    questions = [Question(1, (one,)) for one in commands]
    record = Record(tmp_path, questions)
    record.begin({"command": "c", "started": "s", "minutes": 15, **on_accelerator.setting()})
    on_accelerator.run(questions, record, 900.0, tmp_path, StopRequests())
    assert ends == {"quick": 300, "long": 450, "last": 900}


def test_runs_are_told_as_far_as_they_have_come(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = Command("cell", ("cmwnet_jax.train",), folder / stored.RESULT, folder)
    (folder / stored.CONFIG).write_text(json.dumps({"method": "cmwnet", "seed": 0, "num_epochs": 5}))
    assert Record(tmp_path, [Question(1, (run,))]).contents()["runs"] == {}
    lines = [
        {"epoch": i, "seconds": seconds, "seconds_compile": compiling, "meta_loss": loss}
        | {"test_accuracy_percent": 10.0 * i}
        for i, (seconds, compiling, loss) in enumerate([(9, 7, None), (1, 0, None), (2, 0, None), (7, 3, 0.5)])
    ]
    (folder / stored.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = Record(tmp_path, [Question(1, (run,))])
    assert record.contents()["runs"]["cell"] == {
        "epochs_done": 4,
        "num_epochs": 5,
        "accuracy_percent_last": 30.0,
        "accuracy_percent_last10": None,
        "seconds": 19,
        "epoch_seconds_plain": 2,
        "epoch_seconds_meta": 4,
    }
    record.write()
    assert "| cell | 4 | 5 | 30.00 | - | 2.00 | 4.00 | 19 |" in (tmp_path / "on_accelerator.md").read_text()


def test_a_damaged_record_and_a_missing_archive_are_named(tmp_path):
    (tmp_path / "on_accelerator.json").write_text("{")
    with pytest.raises(UsageError, match=r"on_accelerator.json cannot be used .*: remove it"):
        Record(tmp_path, [])
    with pytest.raises(UsageError, match="--cifar10 is 'nowhere.tar', which does not exist"):
        on_accelerator._existing("--cifar10", "nowhere.tar")
