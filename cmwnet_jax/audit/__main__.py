"""`python -m cmwnet_jax.audit RUN... --output=DIR [--top=N] [--score=NAME]`.

Ranks the training labels of a finished run by how suspicious they are; several runs that differ in the seed are
averaged. Writes to the output folder:

- suspects.csv: the N most suspicious labels, with the label to try instead;
- gallery.html, and suspects.png for images: the same to look at, by pair of given and suggested class;
- summary.json: how many labels are wrong, by class and by pair of classes, and how sure that is;
- examples.parquet: all examples with all columns;
- sample_weight.csv: a weight per example, for any trainer;
- pred_probs.npy and pred_probs_rows.csv: class probabilities, of classifiers trained on these labels, and their
  rows' ids and labels, for cleanlab.

JAX is not needed.
"""

from absl import flags

from cmwnet_jax import command
from cmwnet_jax.audit.scores import AUTO, SCORES
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write

_OUTPUT = flags.DEFINE_string("output", None, "folder for the results")
_TOP = flags.DEFINE_integer("top", 1000, "lines of suspects.csv, from 1")
_SCORE = flags.DEFINE_string("score", AUTO, f"how labels are ranked: {AUTO} or one of {', '.join(SCORES)}")


def main(argv: list[str]) -> None:
    """Audits the runs."""
    if len(argv) < 2:
        raise UsageError("got no run, expected the folder of a finished one, or several: name it")
    if _TOP.value < 1:
        raise UsageError(f"--top is {_TOP.value}, expected a whole number from 1: leave it out for 1000")
    output = folder_to_write("--output", command.required(_OUTPUT.value, "output", "a folder for the results"))
    from cmwnet_jax.audit.write import write_audit  # takes seconds, and neither --help nor a mistake needs it

    write_audit(argv[1:], output, top=_TOP.value, score=_SCORE.value)


if __name__ == "__main__":
    command.run(main)
