"""Writes a report on folders of runs: tables and figures; runs that cannot be read are left out."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import refused, replace_file
from cmwnet_jax.report.differences import differences
from cmwnet_jax.report.figures import save_column_figures
from cmwnet_jax.report.find import Found, OnProblem, find_runs
from cmwnet_jax.report.missing import missing
from cmwnet_jax.report.paper import Paper, read_paper
from cmwnet_jax.report.selective import save_risk_coverage_figures, selective_runs, selective_table
from cmwnet_jax.report.tables import (
    Table,
    accuracy_table,
    also_tables,
    auc_table,
    aurc_table,
    csv_text,
    shots_table,
)
from cmwnet_jax.screen import console


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    paper: str = "",
    of_unknown: bool = True,
    figures: bool = True,
) -> None:
    """Prints tables of all runs in the folders, and writes them with figures.

    Args:
        folders: folders that contain runs.
        output: folder for tables.md, tables.csv and the figures, created if it is missing.
        paper: a file of the paper's numbers, as in `read_paper`; empty for none.
        of_unknown: as in `read_paper`.
        figures: whether to draw figures.

    Raises:
        UsageError: there is nothing to report, or the output cannot be written. Also if something was left
            out; then each reason has been printed on stderr, and the report on the rest has been written.
    """
    problems: list[str] = []

    def leave_out(error: UsageError) -> None:
        if str(error) not in problems:  # folders may overlap
            problems.append(str(error))
            print(f"left out: {error}", file=sys.stderr, flush=True)

    def paper_of(*scores: str) -> Paper:
        return read_paper(paper, scores, of_unknown=of_unknown) if paper else {}

    numbers, errors = paper_of("accuracy", "error"), paper_of("selective_error")
    runs = find_runs(folders, leave_out)
    if not runs:
        raise UsageError(f"no run can be read, {len(problems)} were left out, see above: nothing is written")
    remarks = [f"missing: {line}" for line in missing(runs)]
    remarks += [f"configs differ: {line}" for line in differences(runs).values()]
    drawn = _drawable(runs, leave_out) if figures else []
    with refused("--output", Path(output), "cannot be written"):
        own = (accuracy_table(runs, numbers), shots_table(runs, paper_of), auc_table(runs))
        also = also_tables(runs, paper_of)
        tables = [table for table in (*own, *also, *_selective_tables(runs, errors, leave_out)) if table.rows]
        _write(Path(output).expanduser(), tables, drawn, remarks, problems)
    if problems:
        raise UsageError(f"{len(problems)} of what there is was left out, see above: the report is of the rest")


def _selective_tables(runs: list[Found], paper: Paper, leave_out: OnProblem) -> tuple[Table, Table]:
    """Table 15 and the areas under the curves, of the runs whose selective.npz can be read."""
    readable = []
    for run in selective_runs(runs):
        try:
            run.arrays("selective")
            readable.append(run)
        except UsageError as error:
            leave_out(UsageError(f"{error}; its run is not in the table of selective errors"))
    return selective_table(readable, paper), aurc_table(readable)


def _drawable(runs: list[Found], leave_out: OnProblem) -> list[Found]:
    """The runs whose arrays can be drawn; the others stay in the tables."""
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


def _write(
    output: Path,
    tables: list[Table],
    drawn: list[Found],
    remarks: list[str],
    problems: list[str],
) -> None:
    """Prints and writes the tables, and draws the figures."""
    screen = console()
    lines = [*remarks, *(f"left out: {problem}" for problem in problems)]
    for table in tables:
        for part in table.parts():
            screen.print(part.rich())
    for line in remarks:
        screen.print(line, soft_wrap=True)
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
    for path in save_risk_coverage_figures(drawn, output / "figures"):
        screen.print(f"figures: {path.parent}: {path.name}", soft_wrap=True)
