"""What all commands share: help, Ctrl-C, names as they stand, and config files that cannot be used."""

import io
import json
import os
import signal
import sys
import time
import warnings

import pytest
from rich.table import Table
from test_report import make_run
from test_train import launch

from cmwnet_jax import command, screen, sweep
from cmwnet_jax.errors import Preempted, UsageError
from cmwnet_jax.report import write
from cmwnet_jax.report.find import find_runs
from cmwnet_jax.report.tables import accuracy_table
from cmwnet_jax.runs import stored
from cmwnet_jax.train import loop, preemption, show
from cmwnet_jax.train.metrics import after_warmup
from cmwnet_jax.train.preemption import StopRequests

BRACKETS = "run [a] [/b] [red]c :smile: $x$"
"""What Rich and Matplotlib would take for markup."""


def status_of(monkeypatch, act, *arguments):
    """The status of a command that does this instead of its work."""

    def run(main, flags_parser):
        flags_parser(sys.argv)
        act()

    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setattr(command.app, "run", run)
    with pytest.raises(SystemExit) as exit:
        command.run(lambda argv: None)
    return exit.value.code


@pytest.mark.parametrize("asked", ["--help", "--helpfull", "-h", "--helpshort", "--helpxml"])
@pytest.mark.parametrize("others", [(), ("--no_such_flag",), ("--config=nope.py",), ("show", "path")])
def test_help_is_no_error_whatever_else_is_given(asked, others, monkeypatch, capsys):
    assert status_of(monkeypatch, lambda: pytest.fail("it ran"), *others, asked) == 0
    captured = capsys.readouterr()
    assert captured.out and not captured.err


def test_help_names_the_commands_own_flags():
    done = launch("--help", module="cmwnet_jax.report")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--output" in done.stdout and "python -m cmwnet_jax.report DIR" in done.stdout


def test_a_warning_is_one_line_without_the_place_in_the_code(monkeypatch, capsys):
    def act():
        warnings.warn("the file 'a\nb' cannot be locked", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        sys.exit(0)

    with pytest.warns(DeprecationWarning, match="old"):
        assert status_of(monkeypatch, act) == 0
    assert capsys.readouterr().err == "warning: the file 'a\\nb' cannot be locked\n"


def test_ctrl_c_is_a_stop_and_no_crash(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert status_of(monkeypatch, interrupted) == os.EX_TEMPFAIL
    assert (
        capsys.readouterr().err == "stopped: SIGINT came; what is written stays, and the same command goes on\n"
    )


def test_ctrl_c_ends_a_report_and_a_sweep(tmp_path, monkeypatch):
    """Whatever they were about to do with an error, this is none."""
    make_run(tmp_path / "runs/a/erm/seed0", 50.0, method="erm")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "save_column_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write.write_report([tmp_path / "runs"], tmp_path / "out")
    runs = sweep.plan(["a", "b"], tmp_path / "new", only="*", seeds=1, args="", shard="1/1")
    for error in (KeyboardInterrupt, Preempted):

        def get_config(arg, error=error):
            raise error

        with pytest.raises(error):
            sweep.sweep(get_config, runs)


def test_a_message_is_one_line_whatever_it_names(monkeypatch, capsys):
    def fail():
        raise UsageError("the path a\nb is none")

    assert status_of(monkeypatch, fail) == 2
    assert capsys.readouterr().err == "error: the path a\\nb is none\n"


CONFIG_FILES = {
    "def get_config(:": "SyntaxError",
    "x = 1": "no get_config and get_cells",
    "import sys; sys.exit(0)": "SystemExit: 0 .*line 1",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "raise RuntimeError('a\\nb')": "RuntimeError: a b .*line 1",
    "get_config = get_cells = 3": "no get_config and get_cells",
    "def get_config(arg): 0\ndef get_cells(): return 'abc'": "it returned str, expected a list",
    "def get_config(arg): 0\ndef get_cells(): return {'a': 1}": "it returned dict, expected a list",
    "def get_config(arg): 0\ndef get_cells(): return None": "it returned NoneType, expected a list",
    "def get_config(arg): 0\ndef get_cells(): return []": "lists none",
    "def get_config(arg): 0\ndef get_cells(): exit(0)": "get_cells that cannot be used: it raised SystemExit",
}


@pytest.mark.parametrize("text", CONFIG_FILES)
def test_a_config_file_that_lists_no_cells_is_one_sentence(text, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=CONFIG_FILES[text]) as raised:
        sweep.cells_of(command.load_file(str(path)), str(path))
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: None]
)
def test_a_config_that_is_no_file_is_not_waited_for(make, tmp_path):
    make(tmp_path / "config.py")
    with pytest.raises(UsageError, match="--config=.*config.py cannot be used"):
        command.load_file(str(tmp_path / "config.py"))


def test_entries_that_are_no_cells_and_cells_that_are_no_configs_keep_none_from_running(
    tmp_path, monkeypatch, capsys
):
    listed = ["raises", 5, "../up", "/root", "a,b", "a/b", "", "exits", "a dict", "first", "good", "good"]
    names = {"get_config": lambda arg: None, "get_cells": lambda: iter(listed)}
    cells, wrong = sweep.cells_of(names, "f.py")
    assert cells == ["raises", "a,b", "exits", "a dict", "first", "good"]
    assert set(wrong) == {"5", "../up", "/root", "a/b", ""}

    def get_config(arg):
        if arg.startswith("raises"):
            raise ZeroDivisionError("nothing\nat all")
        if arg.startswith("exits"):
            raise SystemExit(0)
        return {} if arg.startswith("a dict") else small

    def get_first_stage(cell):
        return {"first": 3}.get(cell, "")

    small = sweep.ConfigDict({"a": 1})
    trained = []
    monkeypatch.setattr(loop, "train", lambda config, folder: trained.append(folder.parent.name))
    options = {"only": "*", "seeds": 1, "args": "", "shard": "1/1", "get_first_stage": get_first_stage}
    failures = sweep.sweep(get_config, sweep.plan(cells, tmp_path, **options))
    assert trained == ["b", "good"]
    said = {arg.split(",")[0]: text for arg, text in failures.items()}
    assert (
        said["raises"].startswith("it raised ZeroDivisionError: nothing at all (")
        and "test_command" in said["raises"]
    )
    assert said["exits"].startswith("it raised SystemExit: 0")
    assert said["a dict"].startswith("its get_config returned dict, expected a ConfigDict")
    assert said["first"] == "get_first_stage returned 3, expected a cell or an empty string"
    assert capsys.readouterr().err.count("failed: ") == len(failures)


def printed(monkeypatch, act, width=200):
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    act()
    return out.getvalue()


def test_names_are_printed_as_they_stand(tmp_path, monkeypatch):
    table = Table(title=BRACKETS)
    table.add_column(f"{BRACKETS}!")
    table.add_row(f"{BRACKETS}?")
    text = printed(
        monkeypatch, lambda: (screen.console().print(BRACKETS), screen.console(stderr=True).print(table))
    )
    assert text.count(BRACKETS) == 4 and f"{BRACKETS}!" in text and f"{BRACKETS}?" in text
    result = {"method": "erm", "dataset": BRACKETS, "bias": "none", "seed": 0, "workdir": f"/x/{BRACKETS}"}
    numbers = (
        "num_examples",
        "wrong_rate",
        "test_accuracy_percent_last",
        stored.ACCURACY,
        stored.WEIGHT_AUC,
        "seconds",
        "seconds_compile",
    )
    text = printed(monkeypatch, lambda: show.print_result(result | dict.fromkeys(numbers, 1.0)))
    assert f"erm on {BRACKETS}, bias" in text and f"written to /x/{BRACKETS}" in text
    make_run(tmp_path / "runs" / "[a] $x$" / "_[b] $y$" / "seed0", 50.0, method="erm")
    output = tmp_path / "[out]"
    text = printed(monkeypatch, lambda: write.write_report([tmp_path / "runs"], output))
    assert "[a] $x$" in text and "_[b] $y$" in text and f"written: {output}/tables.md" in text
    assert f"figures: {output}/figures/[a] $x$: learning_curves.png" in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("live", [True, False])
def test_what_is_said_beside_the_bar_has_a_line_of_its_own(live, monkeypatch):
    """Also where a signal comes in the middle of drawing; the bar's own name is no markup."""
    out = Terminal() if live else io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(preemption, "_heard", [""])  # the other tests' sweeps received no signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with show.ProgressBar("bar [a]", 5, 0) as bar, StopRequests(bar.say) as stop:
            bar.advance(0.5, 1.0)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            bar.update({"epoch": 0, "loss": 1.0})
            assert stop.requested
    finally:
        signal.signal(signal.SIGINT, before)
    text = out.getvalue()
    notice = "SIGINT: stopping once the running steps are saved; once more to stop without"
    assert text.count(notice) == 1 and f"{notice}\n" in text
    assert "bar [a]" in text
    if live:  # the bar's line was erased before
        assert text[: text.index(notice)].endswith("\r\x1b[2K")


@pytest.mark.parametrize(
    ("epochs", "warmup", "counted"),
    [(4, 2, [2, 3]), (4, 0, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (30, 10, range(10, 30))],
)
def test_means_leave_the_warm_up_out_where_there_is_anything_else(epochs, warmup, counted):
    history = [{"epoch": epoch} for epoch in range(epochs)]
    assert [line["epoch"] for line in after_warmup(history, warmup)] == list(counted)


def test_a_table_says_of_how_few_epochs_its_means_are(tmp_path):
    notes = {1: "(1, last 1 epoch)", 2: "(1, last 2 epochs)", 10: "(1)", None: "(1)"}
    for count, note in notes.items():
        folder = tmp_path / f"{count}" / "set" / "erm" / "seed0"
        make_run(folder, 50.0, method="erm")
        fields = stored.read_result(folder) | ({stored.AVERAGED: count} if count else {})
        (folder / "result.json").write_text(json.dumps(fields))
        assert accuracy_table(find_runs([tmp_path / f"{count}"]), {}).texts()[1] == ["erm", f"50.00 {note}"]
    assert stored.few_epochs({stored.AVERAGED: 4, stored.IN_WARMUP: True}) == "4 warm-up epochs"
