"""Sweeps: which runs there are, that finished ones stay, and that a failure keeps none from running."""

import json
import re
import shutil

import pytest
from test_train import launch, small_config

from cmwnet_jax import sweep
from cmwnet_jax.errors import TrainingDiverged, UsageError
from cmwnet_jax.runs import stored
from cmwnet_jax.train import loop
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.config import as_json, parse_arg
from experiments import compare

CELLS = ["digits,a,erm", "digits,a,cmwnet", "digits,b,erm"]


def planned(tmp_path, **changes):
    options = {"only": "*", "seeds": 1, "args": "", "shard": "1/1"} | changes
    return sweep.plan(CELLS, tmp_path, **options)


def test_runs_are_seed_after_seed_in_folders_of_their_own(tmp_path):
    runs = planned(tmp_path, seeds=2, only="*,erm", args="epochs=3")
    assert [run.arg for run in runs] == [
        "digits,a,erm,seed=0,epochs=3",
        "digits,b,erm,seed=0,epochs=3",
        "digits,a,erm,seed=1,epochs=3",
        "digits,b,erm,seed=1,epochs=3",
    ]
    assert runs[2].folder == tmp_path / "digits" / "a" / "erm" / "seed1"


def test_shards_are_a_partition(tmp_path):
    shards = [planned(tmp_path, seeds=3, shard=f"{i}/4") for i in (1, 2, 3, 4)]
    joined = sorted(run.arg for shard in shards for run in shard)
    assert joined == sorted(run.arg for run in planned(tmp_path, seeds=3))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_first_stage_keeps_its_epochs_once_a_run_builds_on_it(tmp_path, monkeypatch, capsys):
    """Otherwise the finished ones would stay as they are, on labels that are there no longer."""
    epochs, trained = {"first": 2, "second": 1}, []

    def get_config(arg):
        kind = arg.split(",")[0]
        return small_config(method="erm", num_epochs=epochs[kind], warmup_epochs=0)

    def train(config, folder):
        trained.append((folder.parts[-2], config.num_epochs))
        shutil.rmtree(folder, ignore_errors=True)
        finish(folder, config)

    monkeypatch.setattr(loop, "train", train)
    options = {"only": "*", "seeds": 1, "args": "", "shard": "1/1"}
    stages = {"second,a": "first", "second,b": "first"}
    runs = sweep.plan(
        ["first", *stages], tmp_path, **options, get_first_stage=lambda cell: stages.get(cell, "")
    )
    assert [run.folder.parent.name for run in runs] == ["first", "a", "b"]
    assert sweep.sweep(get_config, runs[:1]) == {}
    epochs["first"] = 4
    assert sweep.sweep(get_config, runs[:2]) == {}  # nothing was built on it before
    epochs["first"] = 6
    failures = sweep.sweep(get_config, runs)
    assert [list(failures), trained] == [[runs[0].arg, runs[2].arg], [("first", 2), ("first", 4), ("a", 1)]]
    said = "first.seed0 is finished after 4 epochs, and .*second.a.seed0 builds on it, .* not 6: take another"
    assert re.search(said, failures[runs[0].arg]) and "which failed" in failures[runs[2].arg]


def test_a_name_of_the_cell_is_not_given_again():
    with pytest.raises(UsageError, match="method is given twice in the config's argument 'erm,method=gce'"):
        parse_arg("erm,method=gce", ("method",), method="erm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": "cifar*"}, "--only=cifar.* matches none of the 3 cells, e.g. digits,a,erm"),
        ({"shard": "3/2"}, "--shard is '3/2', expected I/N with I from 1 to N"),
        ({"shard": "one"}, "--shard is 'one'"),
    ],
)
def test_mistakes(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, **changes)


def test_the_cells_of_each_config_file_are_listed_for_the_report(tmp_path):
    """An older version's list goes over to the file that has its cells."""
    (tmp_path / "cells.json").write_text('["a", "old"]')
    for path, cells in (("x/first.py", ["a", "b"]), ("second.py", ["a"]), ("first.py", ["b", "c"])):
        sweep._list_cells(tmp_path, path, cells)
    assert stored.read_cells(tmp_path) == {"first": ["a", "b", "c"], "second": ["a"], "": ["old"]}


def finish(folder, config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(as_json(config))
    (folder / "result.json").write_text("{}")


def test_what_is_finished_stays_and_a_failure_keeps_none_from_running(tmp_path, monkeypatch, capsys):
    runs, trained = planned(tmp_path), []
    config = small_config()
    finish(runs[0].folder, config)

    def train(config, folder):
        trained.append(folder)
        if len(trained) == 1:
            raise TrainingDiverged("the losses have become nan")
        finish(folder, config)

    monkeypatch.setattr(loop, "train", train)
    failures = sweep.sweep(lambda arg: config, runs)
    assert trained == [runs[1].folder, runs[2].folder]
    assert failures == {runs[1].arg: "the losses have become nan"}
    assert "failed: digits,a,cmwnet,seed=0: the losses have become nan" in capsys.readouterr().err
    assert [run.is_done for run in runs] == [True, False, True]
    other = sweep.sweep(lambda arg: small_config(seed=7), runs[:1])
    assert "holds a finished run of another config" in other[runs[0].arg]


def test_a_finished_cell_goes_on_when_more_epochs_are_asked_for(tmp_path, monkeypatch):
    (run,), trained = planned(tmp_path, only="*,a,erm"), []
    finish(run.folder, small_config(num_epochs=3))
    monkeypatch.setattr(loop, "train", lambda config, folder: trained.append(config.num_epochs))
    assert sweep.sweep(lambda arg: small_config(num_epochs=3), [run]) == {}
    assert sweep.sweep(lambda arg: small_config(num_epochs=5), [run]) == {}
    assert trained == [5]
    assert "another config" in sweep.sweep(lambda arg: small_config(num_epochs=2), [run])[run.arg]


@pytest.mark.parametrize("cells", [["a,net", "b,net", "a,first"], ["a,first", "a,net", "b,net"]])
def test_a_first_stage_that_fails_is_tried_once_and_so_do_those_that_build_on_it(
    cells, tmp_path, monkeypatch, capsys
):
    stages = {"a,net": "a,first", "b,net": "a,first"}
    runs = sweep.plan(
        [*cells, "alone"],
        tmp_path,
        only="*",
        seeds=2,
        args="",
        shard="1/1",
        get_first_stage=lambda cell: stages.get(cell, ""),
    )
    trained, config = [], small_config()

    def train(config, folder):
        trained.append(folder.relative_to(tmp_path).as_posix())
        if trained[-1] == "a/first/seed0":
            raise TrainingDiverged("the losses have become nan")
        finish(folder, config)

    monkeypatch.setattr(loop, "train", train)
    failures = sweep.sweep(lambda arg: config, runs)
    assert sorted(trained) == sorted(["a/first/seed0", "alone/seed0"] + [
        f"{name}/seed1" for name in ("a/first", "a/net", "b/net", "alone")
    ])  # fmt: skip
    because = "it builds on a,first,seed=0, which failed: the losses have become nan"
    named = {run.arg: run for run in runs if "seed=0" in run.arg and not run.is_done}
    assert failures == {
        arg: "the losses have become nan" if arg.startswith("a,first") else because for arg in named
    }
    assert len(failures) == 3
    assert capsys.readouterr().err.count("failed: a,first,seed=0: the losses") == 1


@pytest.mark.parametrize("cell", compare.get_cells())
def test_every_cell_of_the_comparison_is_a_config(cell):
    config = compare.get_config(f"{cell},seed=3,K=2,epochs=12")
    check_config(config)
    assert (config.seed, config.num_epochs, config.warmup_epochs) == (3, 12, 4)
    assert config.data.bias == cell.split(",")[1]
    method, _, variant = (
        cell.split(",")[2].partition("_") if "cmwnet_" in cell else (cell.split(",")[2], "", "")
    )
    assert (config.weight_net.class_feature == "shuffled") == (variant == "shuffled")
    assert config.delayed_weights == (variant == "delayed")
    assert config.method == ("cmwnet_sl" if variant == "sl" else method)


def test_the_comparison_reads_files_of_ones_own():
    config = compare.get_config("cifar10,human_worse_label,erm,raw_dir=x.tar.gz,human_labels=y.npz")
    check_config(config)
    assert (config.data.name, config.data.known_as, config.data.raw_dir) == (
        "image_folder",
        "cifar10",
        "x.tar.gz",
    )
    assert (config.model.name, config.data.human_labels) == ("small_cnn", "y.npz")
    with pytest.raises(UsageError, match="DATASET.*did you mean 'fashion_mnist'"):
        compare.get_config("fashionmnist")


@pytest.mark.whole_runs
def test_the_command_sweeps_over_a_file(tmp_path):
    cells = tmp_path / "cells.py"
    cells.write_text(
        "from test_train import small_config\n"
        "def get_cells():\n"
        "    return ['erm', 'gce']\n"
        "def get_config(arg):\n"
        "    method, seed = arg.split(',')\n"
        "    return small_config(method=method, seed=int(seed.split('=')[1]), num_epochs=1, warmup_epochs=0)\n"
    )
    arguments = [f"--config={cells}", f"--workdir={tmp_path / 'runs'}", "--seeds=1"]
    done = launch(*arguments, module="cmwnet_jax.sweep", PYTHONPATH="tests")
    # tfds may say before that it prepares the set.
    last_line = done.stdout.splitlines()[-1]
    assert (done.returncode, last_line) == (0, f"2 of 2 runs are done, in {tmp_path / 'runs'}")
    assert stored.read_cells(tmp_path / "runs") == {"cells": ["erm", "gce"]}
    for method in ("erm", "gce"):
        result = json.loads((tmp_path / "runs" / method / "seed0" / "result.json").read_text())
        assert result["method"] == method
    again = launch(*arguments, "--list", module="cmwnet_jax.sweep", PYTHONPATH="tests")
    assert again.stdout.splitlines() == ["done  erm,seed=0", "done  gce,seed=0"]
