"""Compares scores of suspicious labels over finished runs whose wrong labels are known.

    python -m experiments.audit_table DIR... --output=FOLDER [--folds=5]

DIR: folders of runs, e.g. of a sweep with the methods erm, cmwnet and cmwnet_sl. Each cell (data set and bias)
gets a column; each score of each METHOD in DIR/.../METHOD/seedN a row, with the AUC and the false negative rate
of a list as long as there are wrong labels, means over the seeds. A run of erm gives plain training's last and
mean loss.

--folds=K adds cleanlab, by K-fold cross-validation with plain training: K more runs like that of erm, on the
same labels without one part, are trained into FOLDER/folds and reused if they are of the same labels and
settings; their predictions of that part go to cleanlab (pip install cleanlab). `cleanlab default` ranks by
self-confidence, as cleanlab does unless told otherwise; `cleanlab best` is its option with the highest AUC,
which takes the truth to choose.

Writes audit.md and audit.csv to FOLDER.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cmwnet_jax import command
from cmwnet_jax.audit.examples import Examples, read_examples
from cmwnet_jax.audit.scores import SCORES, last_loss, score
from cmwnet_jax.audit.summary import false_negative_rate, ranking_auc
from cmwnet_jax.data.bias_record import Record, check_unchanged, save_record
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write, replace_file
from cmwnet_jax.report.differences import first_difference
from cmwnet_jax.report.find import Found, find_runs
from cmwnet_jax.report.tables import Cell, Table, csv_text
from cmwnet_jax.runs import stored
from cmwnet_jax.screen import console
from cmwnet_jax.train.config import as_json, run_folder
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior

_PLAIN = "erm"
_METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
"""cleanlab's rankings."""


def scores_of_run(examples: Examples, run_row: str) -> dict[str, np.ndarray]:
    """All scores that a run allows, [N] each, by row of the table.

    Args:
        examples: from one run.
        run_row: the run's row in its cell; several may have the same method, e.g. a control.
    """
    table = examples.table
    names = [name for name in SCORES if name != "weight" or "weight" in table]
    scores = {f"{run_row}, {name}": score(table, name) for name in names}
    if "weight" in table:
        weights = np.where(np.isnan(table["weight"]), np.nanmedian(table["weight"]), table["weight"])
        scores[f"{run_row}, weight (across meta-classes)"] = -weights
    return {**scores, f"{run_row}, last_loss": last_loss(table)}


def scores_of_cleanlab(given: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of cleanlab, higher for more suspicious labels, by option.

    Args:
        given: [N] int.
        probabilities: [N, C] float, of classifiers that have not seen the example.
    """
    quality_scores = _quality_scores()
    scores = {}
    for method, adjusted in itertools.product(_METHODS, (False, True)):
        if adjusted and method == _METHODS[-1]:
            continue  # not defined
        quality = quality_scores(given, probabilities, method=method, adjust_pred_probs=adjusted)
        scores[f"{method}{', adjusted' * adjusted}"] = -quality
    return scores


def _quality_scores() -> Callable:
    """The function of cleanlab, which is no dependency."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise UsageError("--folds needs cleanlab: pip install cleanlab, or leave --folds out") from error
    return get_label_quality_scores


def cross_validated(run: Path, folder: Path, folds: int) -> np.ndarray:
    """Predicts each training example by plain training without its part of the examples.

    Args:
        run: a finished run of plain training.
        folder: where the runs of the folds are, or will be, in a subfolder for this number of parts.
        folds: the number of parts.

    Returns:
        [N, C] float64, class probabilities in the order of the run's weights.npz.

    Raises:
        UsageError: the run's data have changed, or there are runs of folds of other labels or settings.
    """
    folder = folder / f"{folds}_folds"
    config = run_folder(run).finished_config()
    data = load_data(config)
    check_unchanged(run, data.record, data.true_labels)
    labels = data.biased
    part = np.random.default_rng([config.seed, folds]).permutation(len(labels.ids)) % folds
    probabilities = np.empty((len(labels.ids), data.source.num_classes))
    for fold in range(folds):
        place = folder / f"fold{fold}"
        output = place / "posterior.npy"
        record = dataclasses.replace(data.record, labels=labels.take(np.flatnonzero(part != fold)))
        own = config.copy_and_resolve_references()
        own.data.record = str(folder / f"labels{fold}")
        own.audit.probabilities = "never"
        if stored.is_finished(place):
            _check_fold(place, own, record, data.true_labels)
        else:
            save_record(own.data.record, record, data.true_labels)
            train(own, str(place))
        if not output.exists():
            save_posterior(str(place), str(output), of_given_labels=True)
        rows = part == fold
        probabilities[rows] = np.load(output)[labels.ids[rows]]
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _check_fold(place: Path, config: ConfigDict, record: Record, true_labels: np.ndarray) -> None:
    """Raises a UsageError if a finished run is not of this config, apart from paths, and of these labels."""
    before = json.loads(as_json(run_folder(place).finished_config()))
    if difference := first_difference(before, json.loads(as_json(config))):
        name, old, new = difference
        raise UsageError(
            f"{place} is a fold with {name} {stored.shown(old)}, expected {stored.shown(new)} as in the run to "
            f"cross-validate: remove {place.parent}, or take another --output"
        )
    try:
        check_unchanged(place, record, true_labels)
    except UsageError as error:
        raise UsageError(
            f"{place} is a fold without the labels of the run to cross-validate: remove {place.parent}, or "
            f"take another --output"
        ) from error


Scored = dict[str, tuple[np.ndarray, np.ndarray]]
"""Row of the table -> (score [N], [N] bool, which labels are wrong)."""


def scores_of_cell(runs: Mapping[str, Path], folder: Path, folds: int) -> Scored:
    """All scores of the runs of a cell with one seed.

    Args:
        runs: row of the cell -> run.
        folder: for the runs of the folds.
        folds: as --folds.
    """
    scored = {}
    for name, run in runs.items():
        examples = read_examples(run)
        if "true" not in examples.table:
            raise UsageError(f"{run} has labels whose truth is not known, expected a known one: leave it out")
        is_wrong = examples.table["true"] != examples.table["given"]
        if not 0 < np.sum(is_wrong) < len(is_wrong):
            raise UsageError(f"{run} has {np.sum(is_wrong)} wrong labels of {len(is_wrong)}: leave it out")
        scored |= {row: (one, is_wrong) for row, one in scores_of_run(examples, name).items()}
        if folds and examples.config["method"] == _PLAIN:
            probabilities = cross_validated(run, folder / name, folds)
            by_option = scores_of_cleanlab(examples.table["given"], probabilities)
            best = max(by_option.values(), key=lambda one: ranking_auc(one, is_wrong))
            of = "" if name == _PLAIN else f"{name}, "
            scored |= {
                f"{of}cleanlab default": (by_option[_METHODS[0]], is_wrong),
                f"{of}cleanlab best": (best, is_wrong),
            }
    return scored


def measure(found: list[Found], output: Path, folds: int) -> list[Table]:
    """Makes the tables of AUC and of the false negative rate.

    Args:
        found: the runs.
        output: the folder for the runs of the folds.
        folds: as --folds.
    """
    cells, values = {}, {}
    for run in found:
        cells.setdefault((run.column, run.seed), {})[run.row] = run.path
    for (column, seed), runs in cells.items():
        folder = output.joinpath("folds", *column, f"seed{seed}")
        for row, (one, is_wrong) in scores_of_cell(runs, folder, folds).items():
            for name, rate in _RATES.items():
                values.setdefault(name, {}).setdefault((row, column), {})[seed] = rate(one, is_wrong)
    columns = list(dict.fromkeys(column for column, _ in cells))
    tables = []
    for name, by_cell in values.items():
        rows = list(dict.fromkeys(row for row, _ in by_cell))
        of = {pair: Cell(by_cell.get(pair, {})) for pair in itertools.product(rows, columns)}
        tables.append(Table(name, rows, columns, of, decimals=3))
    return tables


_RATES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "AUC of wrong labels": ranking_auc,
    "share of wrong labels that a list of their number misses": false_negative_rate,
}


def main(argv: list[str]) -> None:
    """Measures, prints and writes the tables."""
    if len(argv) < 2:
        raise UsageError("got no folder, expected one or more with finished runs: name them")
    if _FOLDS.value == 1:
        raise UsageError("--folds is 1, expected at least 2, or 0 for a table without cleanlab: 5 is usual")
    if _FOLDS.value:
        _quality_scores()  # before hours of training
    output = folder_to_write("--output", _OUTPUT.value)
    found = [run for run in find_runs(argv[1:]) if run.result is not None]
    tables = measure(found, output, _FOLDS.value)
    output.mkdir(parents=True, exist_ok=True)
    for table in tables:
        console().print(table.rich())
    replace_file(output / "audit.md", "\n".join(table.markdown() for table in tables))
    replace_file(output / "audit.csv", csv_text(tables))


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", "audit_table", "folder for the table and the runs of the folds")
    _FOLDS = flags.DEFINE_integer("folds", 0, "parts of the cross-validation; 0: no cleanlab", lower_bound=0)
    command.run(main)
