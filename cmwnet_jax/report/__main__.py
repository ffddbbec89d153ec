"""`python -m cmwnet_jax.report DIR... [--output=FOLDER] [--paper=FILE.json] [--figures=false]`.

Prints tables of all runs in the folders, and writes them (tables.md, tables.csv) and figures to the output
folder: a row a method, a column for what else the folders' names say (a data set, a bias). No JAX is needed.
"""

import sys
from pathlib import Path

from absl import flags

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import replace_file
from cmwnet_jax.report.figures import save_column_figures
from cmwnet_jax.report.find import Found, OnProblem, find_cells, find_runs
from cmwnet_jax.report.tables import Paper, accuracy_table, auc_table, csv_text, missing, read_paper
from cmwnet_jax.screen import console

_PAPER_NUMBERS = "experiments/paper_numbers.json"

_OUTPUT = flags.DEFINE_string("output", "report", "folder for the tables and the figures")
_PAPER = flags.DEFINE_string(
    "paper", None, f"the paper's numbers, to stand beside ours; {_PAPER_NUMBERS} where that is here"
)
_FIGURES = flags.DEFINE_bool("figures", True, "draw figures, too")


def main(argv: list[str]) -> None:
    """Finds, prints, writes, draws; says at the end if something had to be left out."""
    if len(argv) < 2:
        raise UsageError("got no folder, expected one or more, e.g. python -m cmwnet_jax.report runs/compare")
    problems: list[str] = []

    def leave_out(error: UsageError) -> None:
        if str(error) not in problems:  # folders may lie in each other
            problems.append(str(error))
            print(f"left out: {error}", file=sys.stderr, flush=True)

    known = _PAPER.value or (_PAPER_NUMBERS if Path(_PAPER_NUMBERS).is_file() else "")
    paper = read_paper(known) if known else {}
    runs = find_runs(argv[1:], leave_out)
    if not runs:
        raise UsageError(
            f"none of the runs can be read, {len(problems)} are spoilt, see above: nothing is written"
        )
    absent = missing(runs, find_cells(argv[1:], leave_out))
    drawn = _drawable(runs, leave_out) if _FIGURES.value else []
    try:
        _report(runs, drawn, paper, absent, problems)
    except BrokenPipeError:  # of stdout
        raise
    except OSError as error:
        raise UsageError(
            f"--output is {_OUTPUT.value!r}, which cannot be written ({first_line(error)}): "
            f"choose another folder"
        ) from error
    if problems:
        raise UsageError(f"{len(problems)} of what there is was left out, see above: the report is of the rest")


def _drawable(runs: list[Found], leave_out: OnProblem) -> list[Found]:
    """The runs without those whose arrays cannot be drawn; these stay in the tables."""
    drawable, first = [], {}
    for run in runs:
        place = (run.column, run.row)
        try:
            if run.result is not None:
                run.check_arrays(like=first.get(place, run))
                first.setdefault(place, run)
            drawable.append(run)
        except UsageError as error:
            leave_out(UsageError(f"{error}; its run is in the tables, and not in the figures"))
    return drawable


def _report(
    runs: list[Found], drawn: list[Found], paper: Paper, absent: list[str], problems: list[str]
) -> None:
    """Prints the tables, writes them, and draws."""
    screen, output = console(), Path(_OUTPUT.value).expanduser()
    tables = [table for table in (accuracy_table(runs, paper), auc_table(runs)) if table.rows]
    lines = [*(f"missing: {line}" for line in absent), *(f"left out: {problem}" for problem in problems)]
    for table in tables:
        for part in table.by_first_part():
            screen.print(part.rich())
    for line in absent:
        screen.print(f"missing: {line}", soft_wrap=True)
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*(table.markdown() for table in tables), "".join(f"- {line}\n" for line in lines)])
    replace_file(output / "tables.md", text.encode(errors="backslashreplace"))
    replace_file(output / "tables.csv", csv_text(tables).encode(errors="backslashreplace"))
    screen.print(f"written: {output / 'tables.md'}, {output / 'tables.csv'}", soft_wrap=True)
    for column in tables[0].columns:
        own = [run for run in drawn if run.column == column]
        by_row = {row: [run for run in own if run.row == row] for row in tables[0].rows}
        by_row = {row: found for row, found in by_row.items() if found}
        if by_row:
            folder = output.joinpath("figures", *column)
            written = save_column_figures(by_row, folder)
            screen.print(f"figures: {folder}: {', '.join(path.name for path in written)}", soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
