"""Writes an audit: the tables, the weights, the summary and the gallery."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmwnet_jax.audit import export, page, scores
from cmwnet_jax.audit.examples import Examples, Table, read_examples
from cmwnet_jax.audit.inputs import Inputs, read_inputs
from cmwnet_jax.audit.summary import summarize
from cmwnet_jax.audit.suspects import rank_examples
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import refused
from cmwnet_jax.report.contact_sheet import save_two_label_sheet
from cmwnet_jax.screen import console

_SHOWN = 240  # examples on the page
_SHOWN_A_PAIR = 24
_LEAST_SHOWN = 40  # suspects, even if fewer labels are estimated to be wrong
_ON_SHEET = 40


def write_audit(
    runs: Sequence[str | os.PathLike], output: str | os.PathLike, *, top: int = 1000, score: str = scores.AUTO
) -> dict:
    """Ranks the labels of finished runs, writes all files of an audit, and prints a summary.

    Args:
        runs: as in `find_suspects`.
        output: the folder, created if it is missing; files in it of the same names are replaced.
        top: the number of lines of suspects.csv.
        score: as in `find_suspects`.

    Returns:
        The contents of summary.json.

    Raises:
        UsageError: a run cannot be used, or the folder cannot be written.
    """
    examples = read_examples(runs)
    ranked = rank_examples(examples, score)
    folder = Path(output).expanduser()
    with refused("--output", folder, "cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        return _write(folder, examples, ranked, top, scores.chosen(score, examples.from_pseudo_labels))


def _write(folder: Path, examples: Examples, ranked: Table, top: int, score: str) -> dict:
    export.write_suspects(folder / "suspects.csv", ranked, top)
    export.write_examples(folder / "examples.parquet", ranked)
    by_row = ranked["wrong_probability"][np.argsort(ranked["row"], kind="stable")]
    weights = export.write_weights(folder / "sample_weight.csv", examples, by_row)
    with_probabilities = export.write_probabilities(folder, examples)
    summary = summarize(examples, ranked, score, weights)
    export.write_summary(folder / "summary.json", summary)
    written = ["suspects.csv", "examples.parquet", "sample_weight.csv", "summary.json", "gallery.html"]
    written += ["pred_probs.npy", "pred_probs_rows.csv"] if with_probabilities else []
    groups = group_by_pair(ranked, min(top, max(_LEAST_SHOWN, round(summary["estimated_wrong"]))))
    rows = [row for *_, shown in groups for row in shown["row"].tolist()]
    inputs = _inputs(examples, rows)
    title = f"Suspicious labels of {summary['dataset']}"
    listed = min(top, len(ranked["row"]))
    page.write_page(folder / "gallery.html", title, summary, groups, inputs, listed)
    if _write_sheet(folder / "suspects.png", ranked, inputs, summary):
        written.append("suspects.png")
    screen = console()
    for line in [*summary["sentences"], f"written to {folder}: {', '.join(written)}"]:
        screen.print(line, soft_wrap=True)
    return summary


def group_by_pair(ranked: Table, top: int) -> list[tuple[str, str, int, Table]]:
    """Groups the suspects by given and suggested class, the pair with the most wrong labels first.

    Those are estimated; in a small data set, most suspects are right, and would hide the others.

    Args:
        ranked: from `rank_examples`.
        top: the number of suspects.

    Returns:
        (given, suggested, number of suspects of the pair, table of those to show, the most suspicious ones)
        per pair. At most 240 are shown in all: of each pair in turn the most suspicious 24.
    """
    size = int(max(ranked["suggested_class"].max(), ranked["given_class"].max())) + 1
    pairs = (ranked["given_class"].astype(np.int64) * size + ranked["suggested_class"])[:top]
    found, first, place, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, ranked["wrong_probability"][:top])
    groups, room = [], _SHOWN
    for i in np.lexsort((first, -counts, -wrong.round(1))):
        members = np.flatnonzero(pairs == found[i])[: min(_SHOWN_A_PAIR, room)]
        if not len(members):
            break
        room -= len(members)
        shown = {name: column[members] for name, column in ranked.items()}
        groups.append((str(shown["given"][0]), str(shown["suggested"][0]), int(counts[i]), shown))
    return groups


def _inputs(examples: Examples, rows: Sequence[int]) -> Inputs:
    """Reads what the gallery shows; without the data set, it shows names alone, and a warning says why."""
    try:
        return read_inputs(examples, rows)
    except UsageError as error:
        print(f"the gallery shows names and paths (or texts) alone: {error}", file=sys.stderr, flush=True)
        return Inputs({}, {})


def _write_sheet(path: Path, ranked: Table, inputs: Inputs, summary: dict) -> bool:
    """Draws the most suspicious images on the page; False if there is none."""
    places = [i for i, row in enumerate(ranked["row"][:1000].tolist()) if row in inputs.images][:_ON_SHEET]
    if not places:
        return False
    rows, names = ranked["row"][places].tolist(), ranked["id"][places].tolist()
    labels = list(zip(ranked["given"][places].tolist(), ranked["suggested"][places].tolist(), strict=True))
    heading = (
        f"{summary['dataset']}: the most suspicious labels, by {summary['score']}\n"
        f"given label above (red), suggested one below (blue), and the example's name"
    )
    save_two_label_sheet([inputs.images[row] for row in rows], labels, list(map(str, names)), heading, path)
    return True
