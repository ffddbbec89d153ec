"""The launcher, from flags to the run's folder."""

import contextlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.runs import run_folder
from cmwnet_jax.train import signals
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.config import as_json, default_config, parse_arg
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.trainer import Trainer
from experiments import digits

ROOT = Path(__file__).parent.parent


def small_config(**fields):
    """A few seconds of training; fields by dotted name with `__` for the dot."""
    config = default_config()
    config.data.bias = "long_tail_5+asymmetric_60"
    config.num_epochs = 6
    config.warmup_epochs = 2
    config.batch_size = 48
    config.meta_set.batch_size = 48
    config.meta_set.mixup = False  # each device mixes its own part: several are not one
    config.model.hidden = (16,)
    config.checkpoint.every_epochs = 2
    for name, value in fields.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def flags_for(devices):
    """XLA's flags of the tests, for a process of so many devices."""
    others = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return " ".join([*others, f"--xla_force_host_platform_device_count={devices}"])


def launch(*arguments, module="cmwnet_jax.train", **environment):
    """A command as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags_for(1), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# A process that has imported what the command does, and leaves each command to a copy of itself.
_COPIES = """
import json, os, runpy, sys
import cmwnet_jax.command, cmwnet_jax.train.loop, ml_collections.config_flags
folder, module, *commands = json.loads(sys.argv[1])
for number, arguments in enumerate(commands):
    if not os.fork():
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    with open(f"{folder}/{number}.status", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""


def launch_each(commands, folder, module="cmwnet_jax.train"):
    """`launch` of several commands, whose imports, seconds each time, are made once."""
    given = json.dumps([str(folder), module, *commands])
    environment = {**os.environ, "XLA_FLAGS": flags_for(1)}
    subprocess.run([sys.executable, "-c", _COPIES, given], cwd=ROOT, env=environment, timeout=300, check=True)
    for number, arguments in enumerate(commands):
        status, stdout, stderr = (
            (folder / f"{number}.{name}").read_text() for name in ("status", "stdout", "stderr")
        )
        yield subprocess.CompletedProcess(arguments, int(status), stdout, stderr)


def _flags_of_libraries():
    """The registry of flags without our own, which commands may then define."""
    registry = {
        name: value.copy() if isinstance(value, dict) else value for name, value in vars(flags.FLAGS).items()
    }
    of_module = registry["__flags_by_module"]
    own = {module for module in of_module if module.startswith(("cmwnet_jax.", "experiments."))}
    ours = {flag.name for module in own for flag in of_module[module]}
    registry["__flags"] = {name: flag for name, flag in registry["__flags"].items() if name not in ours}
    for name in ("__flags_by_module", "__flags_by_module_id", "__key_flags_by_module"):
        registry[name] = {key: list(found) for key, found in registry[name].items() if key not in own}
    return registry


def run_here(commands, module="cmwnet_jax.train"):
    """`launch_each` in this process, for commands that soon end: a process would import for seconds."""
    for arguments in commands:
        stdout, stderr, status = io.StringIO(), io.StringIO(), 0
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in _flags_of_libraries().items():
                patch.setitem(vars(flags.FLAGS), name, value)
            patch.setattr(sys, "argv", [module, *arguments])
            patch.setattr(signals, "stop_at_once", lambda: None)
            stack.enter_context(contextlib.redirect_stdout(stdout))
            stack.enter_context(contextlib.redirect_stderr(stderr))
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as exit:
                status = exit.code or 0
        yield subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())


def test_the_command_trains_and_leaves_a_folder_that_it_will_not_overwrite(tmp_path):
    """And never asks for TensorFlow on the way, be it installed or not."""
    workdir = tmp_path / "run"
    cell = "long_tail_5+asymmetric_60,cmwnet,seed=3"
    arguments = [f"--config=experiments/digits.py:{cell}", f"--workdir={workdir}", "--config.num_epochs=12"]
    done = launch(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "jax" in imported and "tensorflow" not in imported
    assert "test accuracy, mean of the last 10 epochs" in done.stdout
    assert "epoch 12/12" in done.stderr
    assert re.search(r"^compiled in \d+\.\d s$", done.stderr, re.MULTILINE)
    assert {path.name for path in workdir.iterdir()} == {
        ".lock", "bias.json", "bias.npz", "config.json", "metrics.jsonl", "weights.npz", "evaluation.npz",
        "names.json", "predictions.npz", "probabilities.npy",
        "result.json", "checkpoints", "tensorboard",
    }  # fmt: skip
    assert json.loads((workdir / "config.json").read_text())["seed"] == 3
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(12))
    assert lines[0]["meta_loss"] is None
    assert lines[-1]["meta_loss"] > 0
    assert lines[0]["seconds"] > lines[0]["seconds_compile"] > 0 == lines[5]["seconds_compile"]
    result = json.loads((workdir / "result.json").read_text())
    assert result["test_accuracy_percent_last"] == lines[-1]["test_accuracy_percent"]
    assert 0.05 < result["wrong_rate"] < 0.2
    with np.load(workdir / "evaluation.npz") as arrays:
        right = np.diag(arrays["confusion"])
        np.testing.assert_allclose(
            100 * right.sum() / len(arrays["labels"]), lines[-1]["test_accuracy_percent"]
        )
        by_class = 100 * right / arrays["confusion"].sum(axis=1)
    np.testing.assert_allclose(result["test_class_accuracy_percent_last"], by_class)

    before = (workdir / "result.json").read_bytes()
    config = digits.get_config(cell)
    config.num_epochs = 12
    with pytest.raises(UsageError, match="holds a finished run"):
        train(config, workdir)
    assert (workdir / "result.json").read_bytes() == before


_MISTAKES = [
    ("--config.batch_siz=3", "no field 'batch_siz'; did you mean 'batch_size'?"),
    ("--config.batch_size=many", "flag --config.batch_size=many: invalid literal"),
    ("--config=nope.py", "--config=nope.py cannot be used, it raised OSError"),
    ("--config.data.bias=symmetric_140", "bias is 'symmetric_140', which is 140 per cent, expected 0 to 100"),
]


def test_a_mistake_on_the_command_line_is_one_sentence_and_no_folder(tmp_path):
    digits, workdir = "--config=experiments/digits.py", f"--workdir={tmp_path / 'run'}"
    commands = [[digits, argument, workdir] for argument, _ in _MISTAKES]
    for (argument, message), done in zip(_MISTAKES, run_here(commands), strict=True):
        assert done.returncode == 2, argument
        assert done.stderr.startswith("error: "), argument
        assert message in done.stderr
        assert "Traceback" not in done.stderr, argument
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__name": "digit"}, "data.name is 'digit', expected one of .*did you mean 'digits'"),
        ({"method": "cmwnt"}, "method is 'cmwnt', expected one of class_balanced, .*; did you mean 'cmwnet'"),
        ({"weight_net__num_meta_classes": 0}, "num_meta_classes is 0, expected .* at least 1"),
        ({"optimizer__learning_rate": float("inf")}, "learning_rate is inf, expected a number that is finite"),
        ({"model__hidden": (0,)}, r"model.hidden is \(0,\), expected whole numbers"),
        ({"warmup_epochs": 6}, "warmup_epochs is 6, expected less than num_epochs, 6"),
        ({"meta_set__batch_size": 3}, "meta_set.batch_size is 3, expected a multiple of the run's 4 devices"),
        ({"data__bias": "asymmetric_-1"}, "which is -1 per cent, expected 0 to 100"),
        ({"data__bias": "long_tail_0.5"}, "imbalance factor is 0.5, expected at least 1"),
        ({"data__bias": "long_tail_1000"}, "leaves class 7 none of its 125 examples"),
        ({"data__bias": "longtail_10"}, "bias is 'longtail_10', expected"),
        ({"batch_size": 100_000}, "batch_size is 100000, expected at most the .* training examples"),
        ({"batch_size": 50}, "batch_size is 50, expected a multiple of the run.s 4 devices: use 48"),
        ({"num_epochs": 0}, "num_epochs is 0, expected a number that is finite and at least 1"),
        ({"weight_net__normalize": "total"}, "weight_net.normalize is 'total'"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(fields, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(small_config(**fields), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="workdir is .*file/run.*cannot be written"):
        train(small_config(), tmp_path / "file" / "run")


class Interrupted(Exception):
    """Stands for whatever ends a run before its time."""


def interrupt(config, workdir, monkeypatch, steps_done):
    """Trains until so many steps of the second epoch are done, and saved if the checkpoints are due."""
    run_chunk = Trainer.run_chunk

    def until(trainer, state, epoch):
        if epoch.number == 1 and epoch.steps_done == steps_done:
            raise Interrupted
        return run_chunk(trainer, state, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_chunk", until)
        with pytest.raises(Interrupted):
            train(config, workdir)


_begun = {}
"""(state, steps of an epoch) of the newest config: two runs of one are compared."""


def final_arrays(config, workdir):
    """Everything in the newest checkpoint, by name."""
    if as_json(config) not in _begun:
        recipe = build_recipe(config, load_data(config))
        _begun.clear()
        _begun[as_json(config)] = recipe.state, recipe.epoch_steps
    begun, epoch_steps = _begun[as_json(config)]
    with Checkpoints(workdir / "checkpoints", 1) as checkpoints:
        steps_done, state, epoch = checkpoints.restore(begun)
    assert steps_done == config.num_epochs * epoch_steps == state.step
    assert set(epoch) == {
        f"{kind}_history_{part}" for kind in ("loss", "margin") for part in ("total", "count")
    }
    state = state.replace(rng=jax.random.key_data(state.rng))
    return jax.tree_util.tree_leaves_with_path((state, epoch))


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    config = small_config()
    train(config, tmp_path / "whole")

    append = run_folder.RunFolder.append_metrics

    def failing(folder, metrics):
        append(folder, metrics)
        if metrics["epoch"] == 4:  # after the checkpoint of epoch 4, inside of its second half
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "append_metrics", failing)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "result.json").exists()
    with pytest.raises(UsageError, match="unfinished run of another config .*seed was 0 and is 1"):
        train(small_config(seed=1), tmp_path / "resumed")
    # A run that an older version began, without some of the fields, goes on, too.
    file = tmp_path / "resumed" / "config.json"
    fields = json.loads(file.read_text())
    del fields["low_memory"], fields["model"]["dtype"]
    file.write_text(json.dumps(fields))
    train(config, tmp_path / "resumed")

    whole, resumed = (final_arrays(config, tmp_path / name) for name in ("whole", "resumed"))
    for (path, expected), (_, got) in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=jax.tree_util.keystr(path))
    metrics = [
        [
            {**json.loads(line), "seconds": 0, "seconds_compute": 0, "seconds_compile": 0}
            for line in (tmp_path / name / "metrics.jsonl").open()
        ]
        for name in ("whole", "resumed")
    ]
    assert metrics[0] == metrics[1]


def test_a_run_killed_between_its_last_checkpoint_and_its_result_still_gets_one(tmp_path):
    config = small_config()
    result = train(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run")["test_accuracy_percent_last"] == result["test_accuracy_percent_last"]


@pytest.mark.parametrize(("kind", "every"), [("held_out", 1), ("balanced", 3)])
def test_meta_sets_and_meta_every(kind, every, tmp_path):
    config = small_config(meta_set__kind=kind, meta_every_steps=every, num_epochs=4)
    result = train(config, tmp_path / "run")
    assert np.isfinite(result["test_accuracy_percent_last"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert lines[-1]["meta_set_size"] == 100
    assert lines[-1]["meta_loss"] > 0  # over the meta steps alone, where they are not all
    if kind == "held_out":
        assert lines[-1]["meta_set_right_percent"] == 100
        assert result["num_examples"] < train_size("none")


def train_size(bias):
    return len(load_data(small_config(data__bias=bias)).biased.ids)


def test_erm_learns_clean_digits(tmp_path):
    """A launcher that trains at all gets these right."""
    config = small_config(method="erm", data__bias="none", num_epochs=8, model__hidden=(64,))
    assert train(config, tmp_path / "run")["test_accuracy_percent_last"] > 93
    shutil.rmtree(tmp_path / "run")


def test_warmup_is_the_same_for_every_method(tmp_path):
    """Same bias, same initial parameters, same batches: the comparison is of the methods alone."""
    losses = {}
    for method in ("erm", "cmwnet"):
        train(small_config(method=method, num_epochs=3), tmp_path / method)
        lines = [json.loads(line) for line in (tmp_path / method / "metrics.jsonl").open()]
        losses[method] = [line["loss"] for line in lines]
    assert losses["erm"][:2] == losses["cmwnet"][:2]


def test_a_configs_argument_is_typed_and_checked():
    args = parse_arg("symmetric_40,erm,seed=3", ("bias", "method"), bias="none", method="cmwnet", seed=0)
    assert (args.bias, args.method, args.seed) == ("symmetric_40", "erm", 3)
    assert parse_arg(",erm", ("bias", "method"), bias="none", method="cmwnet").bias == "none"
    for arg, message in (
        ("a,b,c", "has 'c' at place 3"),
        ("sed=3", "'sed', expected one of .*did you mean 'seed'"),
        ("seed=x", "seed is 'x' in the config's argument, expected int"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_arg(arg, ("bias", "method"), bias="none", method="cmwnet", seed=0)
