"""`python -m cmwnet_jax.report DIR... [--output=FOLDER] [--paper=FILE.json] [--figures=false]`.

Prints tables of all runs in the folders and writes them (tables.md, tables.csv) to the output folder, with
figures. There is one row per method, and one column for each combination of the other parts of the folders'
names (a data set, a bias). Runs that cannot be read are named and left out, and the exit status is then 2.
JAX is not needed.

The paper's numbers stand beside the cells of their table's config file, as cmwnet_jax.sweep has listed them.
With --paper, also beside runs whose config file is not known (launched one by one, or by an older version's
sweep), if their cells have the names.
"""

from pathlib import Path

from absl import flags

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write, local_path
from cmwnet_jax.report.write import write_report

_PAPER_NUMBERS = "experiments/paper_numbers.json"

_OUTPUT = flags.DEFINE_string("output", "report", "folder for the tables and the figures")
_PAPER = flags.DEFINE_string(
    "paper", None, f"the paper's numbers, to stand beside ours; {_PAPER_NUMBERS} for sweeps where that is here"
)
_FIGURES = flags.DEFINE_bool("figures", True, "draw figures, too")


def main(argv: list[str]) -> None:
    """Finds the runs and writes the report."""
    if len(argv) < 2:
        raise UsageError("got no folder, expected one or more, e.g. python -m cmwnet_jax.report runs/compare")
    folders = [local_path("a folder of runs", folder) for folder in argv[1:]]
    output = folder_to_write("--output", _OUTPUT.value)
    paper = _PAPER.value or (_PAPER_NUMBERS if Path(_PAPER_NUMBERS).is_file() else "")
    write_report(folders, output, paper=paper, of_unknown=bool(_PAPER.value), figures=_FIGURES.value)


if __name__ == "__main__":
    command.run(main)
