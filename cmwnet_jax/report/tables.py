"""Tables of scores over seeds, with the paper's numbers, in three text formats."""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table as RichTable

from cmwnet_jax.report.differences import differences
from cmwnet_jax.report.find import Found
from cmwnet_jax.report.paper import Paper, beside
from cmwnet_jax.report.runs import mean_and_sd
from cmwnet_jax.runs import stored
from cmwnet_jax.runs.stored import ACCURACY, TEACHER_ACCURACY, WEIGHT_AUC, few_epochs


@dataclasses.dataclass(frozen=True)
class Cell:
    """Scores in one row and column.

    Attributes:
        values: scores of the finished runs by seed.
        paper: the paper's (mean, sd or None), if it has this cell.
        note: a remark on the runs, e.g. that their means are over few epochs.
    """

    values: Mapping[int, float]
    paper: tuple[float, float | None] | None = None
    note: str = ""

    def text(self, decimals: int) -> str:
        """`mean ± sd (n)`, then a note on the runs if there is one, then the paper's number.

        Args:
            decimals: digits after the point.
        """
        ours = "-"
        if self.values:
            mean, sd = mean_and_sd(list(self.values.values()))
            spread = "" if math.isnan(sd) else f" ± {sd:.{decimals}f}"
            ours = f"{mean:.{decimals}f}{spread} ({len(self.values)}{self.note and ', '}{self.note})"
        if self.paper is None:
            return ours
        mean, sd = self.paper
        return f"{ours}; paper {mean:.2f}" + ("" if sd is None else f" ± {sd:.2f}")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of cells.

    Attributes:
        title: name of the scores, with the unit.
        rows: names of the rows, in order.
        columns: parts of the columns' names, in order.
        cells: by (row, column), for all pairs.
        decimals: digits after the point.
        split_by: number of first parts of the columns' names by which `parts` splits the table.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[tuple[str, ...]]
    cells: Mapping[tuple[str, tuple[str, ...]], Cell]
    decimals: int
    split_by: int = 1

    def texts(self) -> list[list[str]]:
        """The table as strings; the header comes first."""
        head = ["", *(" ".join(column) or "all" for column in self.columns)]
        return [head] + [
            [row, *(self.cells[row, column].text(self.decimals) for column in self.columns)]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """The table in Markdown, with its title above."""
        lines = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in self.texts()]
        lines.insert(1, "|---" + "|---:" * len(self.columns) + "|")
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"

    def rich(self) -> RichTable:
        """The table for a terminal."""
        head, *lines = self.texts()
        table = RichTable(title=self.title)
        for name in head:
            table.add_column(name, justify="right" if name else "left", no_wrap=not name)
        for row, *texts in lines:
            table.add_row(row, *(text.replace("; ", "\n") for text in texts))
        return table

    def parts(self) -> list["Table"]:
        """Splits the table by the first part of its columns, e.g. the data set, to fit narrow terminals."""
        firsts = dict.fromkeys(column[: self.split_by] for column in self.columns)
        return [
            dataclasses.replace(
                self, columns=[column for column in self.columns if column[: self.split_by] == first]
            )
            for first in firsts
        ]


def csv_text(tables: Sequence[Table]) -> str:
    """CSV with one line for each cell that has a number.

    Args:
        tables: the tables, in order.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "column", "row", "mean", "sd", "runs", "seeds", "paper_mean", "paper_sd", "note"])
    for table in tables:
        for (row, column), cell in table.cells.items():
            if cell.values or cell.paper:
                mean, sd = mean_and_sd(list(cell.values.values())) if cell.values else (math.nan, math.nan)
                ours = ["" if math.isnan(number) else repr(number) for number in (mean, sd)]
                seeds = " ".join(map(str, sorted(cell.values)))
                paper = ["" if number is None else number for number in cell.paper or ("", "")]
                numbers = [*ours, len(cell.values), seeds, *paper, cell.note]
                writer.writerow([table.title, ",".join(column), row, *numbers])
    return text.getvalue()


def accuracy_table(runs: Sequence[Found], paper: Paper) -> Table:
    """Table of test accuracy, mean of the last 10 epochs; the teacher's accuracy is in a separate row.

    Args:
        runs: finished or not.
        paper: the paper's numbers; those of other cells are ignored.
    """
    title = "test accuracy (%), mean of the last 10 epochs; mean ± sd over seeds (number of runs)"
    return _table(runs, title, (("{}", ACCURACY), ("{} (teacher)", TEACHER_ACCURACY)), paper, decimals=2)


def also_tables(runs: Sequence[Found], paper_of: Callable[[str], Paper]) -> list[Table]:
    """Tables of the accuracy on each second test split, and of the top-5 accuracies on both.

    Args:
        runs: finished or not; those without a second test split are in none of them.
        paper_of: score, e.g. `imagenet_val_accuracy` or `test_top5` -> the paper's numbers.
    """
    fields = dict.fromkeys(field for run in runs if run.result for field in stored.also_scores(run.result))
    tables = []
    for field in fields:
        score = field.removesuffix("_percent_last10")
        split, _, kind = score.rpartition("_")
        what = "top-5 accuracy" if kind == "top5" else "accuracy"
        title = f"{what} on {split} (%), mean of the last 10 epochs; mean ± sd over seeds (number of runs)"
        scores = (("{}", field), ("{} (teacher)", f"teacher_{field}"))
        own = [run for run in runs if run.result and field in run.result]
        tables.append(_table(own, title, scores, paper_of(score), decimals=2))
    return tables


def auc_table(runs: Sequence[Found]) -> Table:
    """Table of the AUC with which weights separate right labels from wrong ones, for methods with weights.

    Args:
        runs: finished or not.
    """
    title = (
        "weight AUC, mean of the last 10 epochs (1: every right label weighs more than every wrong one; "
        "0.5: weights tell nothing); mean ± sd over seeds (number of runs)"
    )
    return _table(runs, title, (("{}", WEIGHT_AUC),), {}, decimals=3)


def aurc_table(runs: Sequence[Found]) -> Table:
    """Table of the area under the risk-coverage curve.

    Args:
        runs: finished or not.
    """
    title = (
        "area under the risk-coverage curve (%), the mean selective error over all coverages, after the last "
        "epoch; mean ± sd over seeds (number of runs)"
    )
    return _table(runs, title, (("{}", stored.AURC),), {}, decimals=2)


def shots_table(runs: Sequence[Found], paper_of: Callable[[str], Paper]) -> Table:
    """Table of the mean accuracy over the classes with many, medium and few training examples (Table 8).

    Args:
        runs: finished or not; those whose classes are all of one such group are left out.
        paper_of: score, e.g. `test_few_shot_accuracy` -> the paper's numbers.
    """
    title = (
        "test accuracy (%) of the classes with more than 100, 20 to 100, and fewer than 20 training examples, "
        "after the last epoch; mean ± sd over seeds (number of runs)"
    )
    groups = {run.path: [(run.result or {}).get(field) for field in stored.SHOTS.values()] for run in runs}
    of_several = [run for run in runs if sum(value is not None for value in groups[run.path]) > 1]
    scores = tuple((f"{{}}, {name} shot", field) for name, field in stored.SHOTS.items())
    paper = {
        row.format(cell): number
        for row, field in scores
        for cell, number in paper_of(field.removesuffix("_percent_last")).items()
    }
    return _table(of_several, title, scores, paper, decimals=2)


def _table(runs, title: str, scores, paper: Paper, decimals: int) -> Table:
    columns = list(dict.fromkeys(sorted((run.column for run in runs), key=natural)))
    values, notes, of_cell, of_column = {}, {}, {}, {}
    mixed = differences(runs)
    for run in runs:
        of_column.setdefault(run.column, []).append(run)
        for name, field in scores:
            row, value = name.format(run.row), (run.result or {}).get(field)
            of_cell.setdefault((row, run.column), []).append(run)
            if value is not None:
                values.setdefault((row, run.column), {})[run.seed] = value
                is_last = field in (stored.AURC, *stored.SHOTS.values())
                own = {"" if is_last else few_epochs(run.result)}
                own |= {"configs differ"} if (run.column, run.row) in mixed else set()
                notes.setdefault((row, run.column), set()).update(own)
    # A method without finished runs still has a row; a teacher's row needs a finished run.
    named = [name.format(row) for row in in_order(runs) for name, _ in scores]
    shown = {row for row, _ in values} | ({run.row for run in runs} if scores[0][1] == ACCURACY else set())
    rows = [row for row in named if row in shown]
    sets = sorted({run.dataset for run in runs if not run.column})  # of columns without a name
    cells = {
        (row, column): Cell(
            values.get((row, column), {}),
            # None for several sets. A cell without runs has the number that its column's runs have.
            beside(paper, ",".join([*(column or sets), row]), of_cell.get((row, column), of_column[column])),
            ", ".join(sorted(notes.get((row, column), set()) - {""})),
        )
        for row in rows
        for column in columns
    }
    return Table(title, rows, columns, cells, decimals)


def in_order(runs: Sequence[Found]) -> list[str]:
    """Rows in the order of the methods; for older runs by name, methods without weights first.

    Args:
        runs: finished or not.
    """
    places = {}
    for run in runs:
        result = run.result or {}
        place = result.get(stored.METHOD_PLACE, 0), result.get(stored.WEIGHT_AUC) is not None
        places[run.row] = max(place, places.get(run.row, place))
    return sorted(places, key=lambda row: (places[row], natural((row,))))


def natural(parts: tuple[str, ...]) -> tuple:
    """Sort key that orders numbers by value instead of by first digit.

    Args:
        parts: parts of a name.
    """
    tokens = [token for part in parts for token in part.replace("+", "_").replace("=", "_").split("_")]
    return tuple((0, float(token), "") if token.isdecimal() else (1, 0.0, token) for token in tokens)
