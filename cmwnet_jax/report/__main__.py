"""`python -m cmwnet_jax.report DIR... [--output=FOLDER] [--paper=FILE.json] [--figures=false]`.

Prints tables of all runs in the folders, and writes them (tables.md, tables.csv) and figures to the output
folder: a row a method, a column for what else the folders' names say (a data set, a bias). No JAX is needed.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write, local_path
from cmwnet_jax.report.figures import save_column_figures
from cmwnet_jax.report.find import Found, find_cells, find_runs
from cmwnet_jax.report.tables import accuracy_table, auc_table, csv_text, missing, read_paper

_PAPER_NUMBERS = "experiments/paper_numbers.json"

_OUTPUT = flags.DEFINE_string("output", "report", "folder for the tables and the figures")
_PAPER = flags.DEFINE_string(
    "paper", None, f"the paper's numbers, to stand beside ours; {_PAPER_NUMBERS} where that is here"
)
_FIGURES = flags.DEFINE_bool("figures", True, "draw figures, too")


def main(argv: list[str]) -> None:
    """Finds, prints, writes, draws."""
    if len(argv) < 2:
        raise UsageError("got no folder, expected one or more, e.g. python -m cmwnet_jax.report runs/compare")
    folders = [local_path("a folder of runs", folder) for folder in argv[1:]]
    output = folder_to_write("--output", _OUTPUT.value)
    runs = find_runs(folders)
    known = _PAPER.value or (_PAPER_NUMBERS if Path(_PAPER_NUMBERS).is_file() else "")
    tables = [accuracy_table(runs, read_paper(known) if known else {}), auc_table(runs)]
    tables = [table for table in tables if table.rows]
    absent = missing(runs, find_cells(folders))
    console = Console()
    for table in tables:
        for part in table.by_first_part():
            console.print(part.rich())
    for line in absent:
        console.print(f"missing: {line}", soft_wrap=True)
    output.mkdir(parents=True, exist_ok=True)
    missed = "".join(f"- missing: {line}\n" for line in absent)
    (output / "tables.md").write_text("\n".join([*(table.markdown() for table in tables), missed]))
    (output / "tables.csv").write_text(csv_text(tables))
    console.print(f"written: {output / 'tables.md'}, {output / 'tables.csv'}", soft_wrap=True)
    if _FIGURES.value:
        _draw(runs, tables[0].columns, tables[0].rows, output, console)


def _draw(runs: list[Found], columns, rows, output: Path, console: Console) -> None:
    for column in columns:
        own = [run for run in runs if run.column == column]
        by_row = {row: [run for run in own if run.row == row] for row in rows}
        folder = output.joinpath("figures", *column)
        written = save_column_figures({row: found for row, found in by_row.items() if found}, folder)
        console.print(f"figures: {folder}: {', '.join(path.name for path in written)}", soft_wrap=True)


if __name__ == "__main__":
    command.run(main)
