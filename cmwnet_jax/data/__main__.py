"""`python -m cmwnet_jax.data doctor|describe --config=FILE.py[:args]`, and `posterior`.

doctor      says, before a set is prepared, which of its files are missing or damaged, and how much disk and
            time it will take; writes nothing. The exit status is 1 if something is wrong.
describe    shows the data that a config gives and draws a sheet of examples; trains nothing.
            [--picture=FILE.png]
posterior   writes a finished run's class probabilities for the training split of its data set, for
            pmd biases: --workdir=RUN --output=FILE.npy
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import config_flags
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.data import kinds
from cmwnet_jax.data.doctor import print_report
from cmwnet_jax.data.load import Data, load_data
from cmwnet_jax.data.named_files import named_files
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import file_to_write
from cmwnet_jax.report.contact_sheet import save_contact_sheet
from cmwnet_jax.screen import console
from cmwnet_jax.train.build import fit_meta_classes
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.posterior import save_posterior
from cmwnet_jax.train.starts import starts

_CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:ARGS", lock_config=True)
_PICTURE = flags.DEFINE_string("picture", "examples.png", "where describe's sheet of examples is written")
_WORKDIR = flags.DEFINE_string("workdir", None, "a finished run's folder, for posterior")
_OF_GIVEN_LABELS = flags.DEFINE_bool(
    "of_given_labels", False, "let the run have biased labels, as Forward correction's matrix needs it"
)
_OUTPUT = flags.DEFINE_string("output", None, "where the probabilities are written, for posterior")

_MOST_CLASSES = 20  # of more classes, only the largest and the smallest are shown


def doctor() -> None:
    """Prints what is found of the data before they are prepared; exits with status 1 if something is wrong."""
    config = command.required(_CONFIG.value, "config", "e.g. --config=experiments/digits.py")
    check_config(config)
    if not print_report(config, {**named_files(config), **starts(config)}):
        sys.exit(1)


def describe() -> None:
    """Prints sizes, classes before and after, the true noise rate, transition matrix and meta-classes."""
    config = command.required(_CONFIG.value, "config", "e.g. --config=experiments/digits.py")
    picture = file_to_write("--picture", _PICTURE.value, ".png")
    check_config(config)
    data = load_data(config)
    screen = console()
    screen.print(_classes(data, fit_meta_classes(config, data)))
    if data.biased.truth_known and data.biased.is_wrong.any():
        screen.print(_transitions(data))
    for line in _summary(config, data):
        screen.print(line, soft_wrap=True)
    if data.kind != kinds.IMAGES:
        screen.print(f"no picture of examples, which are {data.kind}")
        return
    _draw(data, picture)
    screen.print(f"examples: {picture}", soft_wrap=True)


def _summary(config, data: Data) -> list[str]:
    biased = data.biased
    wrong = "how many of their labels are wrong is not known"
    if biased.truth_known:
        wrong = f"{100 * biased.wrong_rate:.2f}% of their labels are wrong"
    lines = [
        f"data set {data.source.name}: {len(data.true_labels)} training and {len(data.test_labels)} test "
        f"examples, {data.source.num_classes} classes, {data.kind} {' x '.join(map(str, data.image_shape))}",
        f"bias {data.record.name!r}, seed {data.record.seed}: {len(biased.ids)} examples are kept, {wrong}",
        f"meta set: {config.meta_set.kind}"
        + ("" if data.record.held_out is None else f", {len(data.record.held_out)} examples set apart"),
    ]
    if not biased.is_labelled.all():
        lines.append(
            f"{np.sum(biased.is_labelled)} examples have a label, at least {min(biased.class_counts)} of each "
            f"class; of the others, only the images are used"
        )
    if data.also_test is not None:
        second = data.also_test
        lines.append(
            f"also tested on {second.name}: {len(second.labels)} examples of {second.num_classes} of the "
            f"{data.source.num_classes} classes"
        )
    if data.record.calibration is not None:
        lines.append(f"calibration: {len(data.record.calibration)} examples set apart")
    if biased.candidates is not None:
        size = np.mean(np.sum(biased.candidates, axis=1))
        lines.append(f"labels are sets of {size:.2f} candidates on average; given is one of these at random")
    if biased.foreign is not None:
        lines.append(f"{np.mean(biased.foreign >= 0):.2%} of the images are {biased.foreign_dataset}'s")
    return lines


def _shown(data: Data) -> np.ndarray:
    """The classes to show in tables; if there are too many, the largest and the smallest of them."""
    counts = data.biased.class_counts
    if len(counts) <= _MOST_CLASSES:
        return np.arange(len(counts))
    order = np.argsort(-counts, kind="stable")
    return np.concatenate([order[: _MOST_CLASSES // 2], order[-_MOST_CLASSES // 2 :]])


def _classes(data: Data, meta_classes: MetaClasses) -> Table:
    biased, shown = data.biased, _shown(data)
    note = "" if len(shown) == data.source.num_classes else " (largest and smallest)"
    table = Table(title=f"classes{note}: examples in the set, kept by true label, as given; wrong among given")
    table.add_column("class")
    for column in ("in the set", "kept", "given", "wrong", "meta-class"):
        table.add_column(column, justify="right", no_wrap=True)
    before = np.bincount(data.true_labels, minlength=data.source.num_classes)
    for c in shown:
        given = biased.given == c
        wrong = f"{100 * biased.is_wrong[given].mean():.1f}%" if given.any() and biased.truth_known else "-"
        k = meta_classes.of_class[c]
        center = f"{k} (size {meta_classes.centers[k]:.0f})"
        numbers = (before[c], np.sum(biased.true == c), np.sum(given), wrong, center)
        table.add_row(data.class_names[c], *map(str, numbers))
    return table


def _transitions(data: Data) -> Table:
    """P(given | true) in per cent; zeros are left blank."""
    shown = _shown(data)
    table = Table(title="given label (column) of each true label (row), per cent")
    table.add_column("true")
    for c in shown:
        table.add_column(data.class_names[c], justify="right")
    matrix = 100 * data.biased.transition_matrix
    for row in shown:
        cells = [f"{matrix[row, column]:.0f}" if matrix[row, column] else "" for column in shown]
        table.add_row(data.class_names[row], *cells)
    return table


def _draw(data: Data, picture: Path) -> None:
    """Draws examples of each class, some with wrong labels if there are any."""
    biased, rng = data.biased, np.random.default_rng(0)
    rows = []
    for c in _shown(data):
        members = rng.permutation(np.flatnonzero(biased.given == c))
        wrong, right = members[biased.is_wrong[members]], members[~biased.is_wrong[members]]
        rows.append(np.concatenate([right[: 12 - min(4, len(wrong))], wrong[:4]]))
    take = data.splits["train"].take
    names = np.array([*data.class_names, "another set's"])  # a true label of -1 picks the last
    sheet = [(take(r).image, names[biased.given[r]], names[biased.true[r]]) for r in rows if len(r)]
    save_contact_sheet(sheet, picture)


def posterior() -> None:
    """Writes the class probabilities of a finished run's classifier."""
    workdir = command.required(_WORKDIR.value, "workdir", "a finished run's folder")
    output = command.required(_OUTPUT.value, "output", "an .npy file to write")
    print(f"written to {save_posterior(workdir, output, _OF_GIVEN_LABELS.value)}")


def main(argv: list[str]) -> None:
    """Dispatches on the first argument."""
    verbs = {"doctor": doctor, "describe": describe, "posterior": posterior}
    if len(argv) != 2:
        raise UsageError(f"got the arguments {argv[1:]}, expected one of {', '.join(verbs)}, then flags")
    if argv[1] not in verbs:
        raise unknown_name("the first argument", argv[1], verbs)
    verbs[argv[1]]()


if __name__ == "__main__":
    command.run(main)
