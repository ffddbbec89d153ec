"""Spoilt run folders: one sentence each, nothing in them changed, and the others none the worse."""

import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_report import add_corrected, make_run
from test_train import small_config

from cmwnet_jax import sweep
from cmwnet_jax.errors import UsageError
from cmwnet_jax.report import write
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train import loop
from cmwnet_jax.train.config import as_json
from cmwnet_jax.train.loop import train

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
ARRAYS = ("weights.npz", "evaluation.npz", "bias.npz", "corrected.npz")


def of(content):
    return lambda file: file.write_bytes(content)


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file):
    """One bit of what was written last, which the archive's checksum is of."""
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") - 1] ^= 1 << random.Random(file.name).randrange(8)
    file.write_bytes(content)


def instead(make):
    def spoil(file):
        file.unlink()
        make(file)

    return spoil


def after(first, then):
    return lambda file: (first(file), then(file))


def with_field(name, value):
    def spoil(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))

    return spoil


def without_field(name):
    def spoil(file):
        fields = json.loads(file.read_text())
        del fields[name]
        file.write_text(json.dumps(fields))

    return spoil


def with_lines(change):
    def spoil(file):
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(change(lines)))

    return spoil


def with_arrays(**arrays):
    def spoil(file):
        with np.load(file) as old:
            np.savez(
                file, **{name: arrays.get(name, old[name]) for name in old if arrays.get(name, 0) is not None}
            )

    return spoil


ANY_FILE = {
    "empty": of(b""),
    "cut": cut,
    "folder": instead(Path.mkdir),
    "pipe": instead(os.mkfifo),
    "link to nothing": instead(lambda file: file.symlink_to("nowhere")),
    "link to itself": instead(lambda file: file.symlink_to(file.name)),
}
ANY_JSON = ANY_FILE | {
    "list": of(b"[1, 2]"),
    "null": of(b"null\n"),
    "not UTF-8": of(b'{"method": "\xff"}\n'),
    "deep": of(b"[" * 100_000 + b"\n"),
    "number too long": of(b'{"seed": ' + b"1" * 5000 + b"}\n"),
    "zeros": of(b"\0" * 100 + b"\n"),
}
LINES = {
    "garbage in the middle": lambda lines: [lines[0], b"!\n", *lines[1:]],
    "a line that is cut in the middle": lambda lines: [lines[0][:9], *lines[1:]],
    "twice": lambda lines: [lines[0], *lines],
    "out of order": lambda lines: lines[::-1],
    "an epoch missing": lambda lines: lines[:1] + lines[2:],
    "NaN": lambda lines: [*lines[:-1], b'{"epoch": 3, "test_accuracy_percent": NaN}\n'],
    "infinite": lambda lines: [*lines[:-1], b'{"epoch": 3, "test_accuracy_percent": 1e999}\n'],
    "text": lambda lines: [*lines[:-1], b'{"epoch": 3, "test_accuracy_percent": "high"}\n'],
    "no accuracy": lambda lines: [*lines[:-1], b'{"epoch": 3}\n'],
    "no epoch": lambda lines: [*lines[:-1], b'{"test_accuracy_percent": 50}\n'],
    "true": lambda lines: [lines[0].replace(b": 0", b": false", 1), *lines[1:]],
}
SPOILERS = {
    **{(CONFIG, name): spoil for name, spoil in ANY_JSON.items()},
    (CONFIG, "missing"): Path.unlink,
    (CONFIG, "no method"): without_field("method"),
    (CONFIG, "a method of another type"): with_field("method", ["cmwnet"]),
    (CONFIG, "a method that is a path"): with_field("method", "../../cmwnet"),
    (CONFIG, "text for a number"): with_field("num_epochs", "many"),
    (CONFIG, "a truth value for a number"): with_field("seed", True),
    (CONFIG, "no epochs"): with_field("num_epochs", 0),
    **{(METRICS, name): spoil for name, spoil in ANY_JSON.items()},
    **{(METRICS, name): with_lines(change) for name, change in LINES.items()},
    **{(RESULT, name): spoil for name, spoil in ANY_JSON.items()},
    (RESULT, "text for a number"): with_field("test_accuracy_percent_last10", "62"),
    (RESULT, "NaN"): with_field("test_accuracy_percent_last10", float("nan")),
    (RESULT, "a list for a number"): with_field("weight_auc_last10", [0.5]),
    **{(file, name): spoil for file in ARRAYS for name, spoil in ANY_FILE.items()},
    **{(file, "flipped"): flipped for file in ARRAYS},
    **{(file, "other bytes"): of(b"PK\x03\x04 and so on") for file in ARRAYS},
    ("weights.npz", "an .npy"): of(b"\x93NUMPY\x01\x00"),
    ("weights.npz", "a pickle"): of(pickle.dumps({"weights": 1})),
    ("weights.npz", "an array missing"): with_arrays(weights=None),
    ("weights.npz", "another length"): with_arrays(weights=np.ones(5)),
    ("weights.npz", "no rows"): with_arrays(given=np.ones(0, int)),
    ("weights.npz", "NaN"): with_arrays(losses=np.full(6, np.nan)),
    ("weights.npz", "NaN for a mean"): with_arrays(visits=np.ones(6, int)),
    ("weights.npz", "text"): with_arrays(weights=np.array(list("abcdef"))),
    ("weights.npz", "no such meta-class"): with_arrays(meta_class=np.full(6, 7)),
    ("evaluation.npz", "not square"): with_arrays(confusion=np.ones((3, 4), int)),
    ("evaluation.npz", "other classes than the others"): with_arrays(confusion=np.ones((4, 4), int)),
    ("corrected.npz", "no such class"): with_arrays(new=np.full(11, 9)),
}


def folder_digest(folder):
    """What is in a folder, and when each file was written; a pipe is not opened."""
    return {
        path.relative_to(folder): (
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else path.lstat().st_mode,
        )
        for path in sorted(folder.rglob("*"))
    }


def one_sentence(error):
    assert str(error) and "\n" not in str(error) and len(str(error)) < 700
    return str(error)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Three finished runs, of which one is to be spoilt."""
    folder = tmp_path_factory.mktemp("reported")
    for seed, method in ((0, "cmwnet"), (1, "cmwnet"), (0, "erm")):
        make_run(folder / f"set/sym_20/{method}/seed{seed}", 60.0 + seed, method=method, seed=seed)
        add_corrected(folder / f"set/sym_20/{method}/seed{seed}")
    return folder


@pytest.mark.parametrize("spoiler", SPOILERS, ids=" ".join)
def test_a_report_says_what_is_spoilt_and_is_of_the_rest(spoiler, reported, tmp_path, monkeypatch, capfd):
    file, _ = spoiler
    runs = tmp_path / "runs"
    shutil.copytree(reported, runs)
    spoilt = runs / "set/sym_20/cmwnet/seed1"
    SPOILERS[spoiler](spoilt / file)
    before = folder_digest(runs)
    monkeypatch.setattr(write, "save_column_figures", lambda runs, folder: [])  # they are drawn elsewhere
    with pytest.raises(UsageError, match="1 of what there is was left out, see above") as raised:
        write.write_report([runs], tmp_path / "out")
    one_sentence(raised.value)
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith(f"left out: {spoilt}"), lines
    text = (tmp_path / "out/tables.md").read_text()
    values = "60.50 ± 0.71 (2)" if file in ARRAYS else "60.00 (1)"
    assert f"| cmwnet | {values} |" in text and "| erm | 60.00 (1) |" in text
    assert f"- {lines[0]}" in text
    assert folder_digest(runs) == before


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that was killed after its last epoch, before its result; nobody has trained it."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    make_run(folder, 60.0)
    add_corrected(folder)
    (folder / CONFIG).write_text(as_json(small_config()))
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    lines = [line | {"loss_min": 0.1, "loss_max": 2.0} for line in lines]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / RESULT).unlink()
    for name in ("checkpoints", "tensorboard"):
        (folder / name).mkdir()
    (folder / ".lock").touch()
    (folder / "bias.json").write_text("{}")
    RunFolder(folder).check(small_config())  # so that what follows is the spoilers' doing
    return folder


# The run writes these anew, or goes on behind them.
ANEW = (
    {(RESULT, name) for _, name in SPOILERS}
    | {("bias.npz", name) for _, name in SPOILERS}
    | {(METRICS, "empty"), (METRICS, "cut"), ("evaluation.npz", "other classes than the others")}
)
TRAINING = {
    **{key: spoil for key, spoil in SPOILERS.items() if key not in ANEW},
    ("evaluation.npz", "flipped"): flipped,
    (CONFIG, "a section of another type"): with_field("data", [1, 2]),
    (METRICS, "no losses"): with_lines(lambda ls: [*ls[:-1], b'{"epoch": 3, "test_accuracy_percent": 5}\n']),
    **{(RESULT, name): after(of(b"{}\n"), spoil) for name, spoil in ANY_JSON.items()},
    **{(name, "a file"): after(Path.rmdir, Path.touch) for name in ("checkpoints", "tensorboard")},
    ("checkpoints", "a pipe"): after(Path.rmdir, os.mkfifo),
    **{(name, k): ANY_FILE[k] for name in (".lock", "bias.json", "bias.npz") for k in ("folder", "pipe")},
}  # fmt: skip


@pytest.mark.parametrize("spoiler", TRAINING, ids=" ".join)
def test_a_run_does_not_go_on_in_a_spoilt_folder(spoiler, unfinished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    TRAINING[spoiler](run / spoiler[0])
    before = folder_digest(run)
    with pytest.raises(UsageError) as raised:
        train(small_config(), run)
    assert str(run) in one_sentence(raised.value)
    assert folder_digest(run) == before


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_workdir_that_is_no_folder_is_left_alone(make, tmp_path):
    make(tmp_path / "run")
    with pytest.raises(UsageError, match=r"workdir is .*/run', which is .*, expected a folder: choose another"):
        train(small_config(), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and not (tmp_path / "run").is_dir()


def test_a_sweep_goes_on_beside_spoilt_folders(unfinished, reported, tmp_path, monkeypatch, capsys):
    """Of finished runs as of unfinished ones; what is not spoilt is trained, or stays."""
    config, trained = small_config(), []
    finished = next(path.parent for path in reported.rglob(RESULT))
    cells = {"good": None, "done": None}
    for number, (whole, spoilers) in enumerate(((unfinished, TRAINING), (finished, SPOILERS))):
        for file, name in spoilers:
            if file in (CONFIG, METRICS, RESULT, "checkpoints"):
                cells[f"{number},{file},{name}".replace(" ", "_")] = (whole, file, spoilers[file, name])
    runs = sweep.plan(list(cells), tmp_path, only="*", seeds=1, args="", shard="1/1")
    for run, made in zip(runs, cells.values(), strict=True):
        if made is not None:
            shutil.copytree(made[0], run.folder)
            (run.folder / CONFIG).write_text(as_json(config))
            made[2](run.folder / made[1])
    shutil.copytree(finished, runs[1].folder)
    (runs[1].folder / CONFIG).write_text(as_json(config))
    before = folder_digest(tmp_path)
    monkeypatch.setattr(loop, "train", lambda c, folder: RunFolder(folder).check(c) or trained.append(folder))
    failures = sweep.sweep(lambda arg: config, runs)
    # Of a finished run, a sweep reads no more than what it has to believe.
    kept = ["good", "done", "1,metrics.jsonl,empty", "1,metrics.jsonl,cut"]
    assert {run.arg for run in runs} - failures.keys() == {f"{cell},seed=0" for cell in kept}
    assert len(failures) > 70 and trained == [runs[0].folder]
    for said in failures.values():
        one_sentence(said)
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]) == len(
        failures
    )
    assert folder_digest(tmp_path) == before


def test_a_line_that_a_kill_has_cut_is_dropped_and_a_whole_one_without_its_end_is_kept(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "run")
    file, folder = tmp_path / "run" / METRICS, RunFolder(tmp_path / "run")
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for content, epochs in (
        (whole[:-1], 4),
        (whole[:-2], 3),
        (whole[: first + 1], 1),
        (whole[:first] + b"\0\0", 1),
    ):
        file.write_bytes(content)
        folder.check(small_config())
        assert [line["epoch"] for line in folder.metrics()] == list(range(epochs))
        folder.start(small_config(), epochs)
        folder.append_metrics({"epoch": epochs})
        assert file.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:epochs]))
        assert len(folder.metrics()) == epochs + 1


def test_a_report_says_which_folders_and_lists_of_cells_it_could_not_read(
    reported, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(write, "save_column_figures", lambda runs, folder: [])
    (tmp_path / "file").touch()
    shutil.copytree(reported, tmp_path / "runs")
    (tmp_path / "runs" / "cells.json").write_text('["a", 3]')
    with pytest.raises(UsageError, match="3 of what there is was left out"):
        write.write_report([tmp_path / "runs", tmp_path / "file", tmp_path / "missing"], tmp_path / "out")
    said = capfd.readouterr().err
    for name, problem in (
        ("runs/cells.json", "no strings"),
        ("file", "Not a dir"),
        ("missing", "No such file"),
    ):
        assert any(f"left out: {tmp_path / name} " in line and problem in line for line in said.splitlines())
    with pytest.raises(UsageError, match="no run can be read, 1 were left out"):
        write.write_report([tmp_path / "missing"], tmp_path / "out")
    for path in ("out/tables.md", "taken"):
        output = tmp_path / ("out" if path.startswith("out") else path)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / path).mkdir(parents=True) if path.startswith("out") else (tmp_path / path).touch()
        with pytest.raises(UsageError, match="--output is .*cannot be written .*choose another"):
            write.write_report([reported], output)
