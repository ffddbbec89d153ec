"""The paper's numbers, and which of them stand beside a cell."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import read_json
from cmwnet_jax.report.find import Found

Paper = Mapping[str, tuple[float, float | None]]
"""The paper's (mean, sd or None) by `CONFIG:column,row`, e.g. `table2_noise:cifar10,symmetric_40,cmwnet`, for
runs of that config file; by `:column,row` for runs whose config file is not known; by `column,row` for any."""


def read_paper(
    path: str | Path, scores: Collection[str] = ("accuracy", "error"), *, of_unknown: bool = True
) -> Paper:
    """Reads the paper's numbers from a JSON file; errors become accuracies.

    Args:
        path: a JSON file with tables by name, each with `score` (`accuracy`, `error`, `selective_error`, or one
            of `also_tables` or `shots_table`; in per cent), `columns`, and `rows`: by name, a list with one
            entry per column, which is a number, [mean, sd] or null. With `config`, the name of a config file
            without `.py`, the numbers are for runs of its sweeps alone.
        scores: tables with other scores are left out.
        of_unknown: whether numbers with `config` are also for runs whose config file is not known.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        tables = read_json(Path(path).expanduser(), finite=True)
        numbers = {}
        for table in tables.values():
            if table["score"] not in scores:
                continue
            is_error = table["score"] == "error"
            config = table.get("config")
            starts = [""] if config is None else [f"{config}:", *[":"] * of_unknown]
            for row, values in table["rows"].items():
                for column, value in zip(table["columns"], values, strict=True):
                    if value is not None:
                        mean, sd = value if isinstance(value, list) else (value, None)
                        mean, sd = float(mean), None if sd is None else float(sd)
                        number = (round(100 - mean, 2) if is_error else mean, sd)
                        numbers |= {f"{start}{column},{row}": number for start in starts}
        return numbers
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = first_line(error) if isinstance(error, OSError | ValueError) else "it has another form"
        raise UsageError(f"--paper={path} cannot be read ({why}): give a file of the paper's numbers") from None


def beside(paper: Paper, cell: str, runs: Sequence[Found]) -> tuple[float, float | None] | None:
    """The paper's number for a cell; None if it has none, or if the runs are of several config files.

    Args:
        paper: the paper's numbers.
        cell: `column,row`.
        runs: the runs of the cell, or of its column.
    """
    files = {run.config_file for run in runs}
    own = paper.get(f"{files.pop()}:{cell}") if len(files) == 1 else None
    return own or paper.get(cell)
