"""A run's terminal output: a progress bar with the epoch's metrics, and a table at the end."""

import sys

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from cmwnet_jax.runs.stored import ALSO_TEST, LAST_EPOCHS, few_epochs
from cmwnet_jax.screen import console

_SHOWN = (
    ("loss", "loss {:.3f}"),
    ("meta_loss", "meta {:.3f}"),
    ("test_accuracy_percent", "test {:.1f}%"),
    ("weight_auc", "AUC {:.2f}"),
)


class ProgressBar:
    """A live progress bar on a terminal, or about five plain lines per run elsewhere. A context manager."""

    def __init__(self, name: str, num_epochs: int, epochs_done: float, silent: bool = False):
        """Prepares the bar; it is shown from `__enter__` on.

        Args:
            name: the title of the run.
            num_epochs: epochs of the whole run.
            epochs_done: epochs done before this launch; not whole if it resumes inside an epoch.
            silent: whether to show nothing at all, for a run's other processes.
        """
        self._name, self._num_epochs = name, num_epochs
        self._live, self._plain = sys.stderr.isatty() and not silent, not sys.stderr.isatty() and not silent
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            # On a narrow terminal the bar and the metrics shrink; the progress and the remaining time do not.
            MofNCompleteColumn(table_column=Column(min_width=len(f"{num_epochs}/{num_epochs}"))),
            TextColumn("ETA", table_column=Column(min_width=3)),
            TimeRemainingColumn(compact=True, table_column=Column(min_width=7)),
            TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
            console=console(stderr=True),
            disable=not self._live,
        )
        self._metrics = {}
        self._task = self._progress.add_task(name, total=num_epochs, completed=epochs_done, numbers="compiling")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *error) -> None:
        self._progress.stop()

    def advance(self, epochs_done: float, loss: float) -> None:
        """Shows the progress inside an epoch.

        Args:
            epochs_done: epochs done, including the fraction of the running one.
            loss: mean loss of the last chunk of steps.
        """
        self._show(epochs_done, self._metrics | {"loss": loss})

    def update(self, metrics: dict) -> None:
        """Shows the metrics of a finished epoch."""
        done = metrics["epoch"] + 1
        numbers = self._show(done, metrics)
        if self._plain and (done % max(self._num_epochs // 5, 1) == 0 or done == self._num_epochs):
            print(f"{self._name}  epoch {done}/{self._num_epochs}  {numbers}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a permanent line: above the bar, or as plain text without one.

        Args:
            text: the line, without a newline.
        """
        if self._live:
            self._progress.console.print(text, soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def _show(self, epochs_done: float, metrics: dict) -> str:
        self._metrics = metrics
        numbers = "  ".join(
            form.format(metrics[name]) for name, form in _SHOWN if np.isfinite(metrics.get(name, np.nan))
        )
        self._progress.update(self._task, completed=epochs_done, numbers=numbers)
        return numbers


def print_result(result: dict) -> None:
    """Prints a finished run's results as a table."""
    title = f"{result['method']} on {result['dataset']}, bias {result['bias']}, seed {result['seed']}"
    few = few_epochs(result)
    last = f"mean of the last {LAST_EPOCHS} epochs{few and f' (here: {few})'}"
    table = Table(title=title, min_width=len(title))
    table.add_column("number")
    table.add_column("value", justify="right")
    for label, text in (
        ("training examples", f"{result['num_examples']}"),
        ("wrong labels among them", _optional(100 * result["wrong_rate"], "{:.1f}%")),
        ("test accuracy, last epoch", f"{result['test_accuracy_percent_last']:.2f}%"),
        (f"test accuracy, {last}", f"{result['test_accuracy_percent_last10']:.2f}%"),
        *_also_tested(result, last),
        (f"weight AUC, {last}", _optional(result["weight_auc_last10"], "{:.3f}")),
        ("time", f"{result['seconds']:.1f} s"),
        ("time, of which compiling", f"{result['seconds_compile']:.1f} s"),
    ):
        table.add_row(label, text)
    console().print(table)
    console().print(f"written to {result['workdir']}", style="dim", soft_wrap=True)


def _also_tested(result: dict, last: str) -> list[tuple[str, str]]:
    """The rows of a second test split, if there is one."""
    name = result.get(ALSO_TEST)
    field = f"{name}_accuracy_percent"
    labels = {f"accuracy on {name}, last epoch": "last", f"accuracy on {name}, {last}": "last10"}
    return [(label, f"{result[f'{field}_{part}']:.2f}%") for label, part in labels.items()] if name else []


def _optional(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "-"
