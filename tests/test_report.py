"""Tables and figures from made run folders."""

import csv
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from cmwnet_jax.errors import UsageError
from cmwnet_jax.report.contact_sheet import corrected_pages, save_corrected_sheet
from cmwnet_jax.report.figures import corrected_sheets, save_column_figures
from cmwnet_jax.report.find import find_cells, find_runs
from cmwnet_jax.report.tables import (
    accuracy_table,
    auc_table,
    csv_text,
    missing,
    read_paper,
    shots_table,
)
from cmwnet_jax.runs.stored import SHOTS

C = 3


def make_run(folder, accuracy, *, method="cmwnet", epochs=4, done=True, teacher=None, seed=0):
    """A run as the launcher leaves it, of six examples."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_epochs": 4, "method": method, "seed": seed}))
    lines = [
        {"epoch": e, "test_accuracy_percent": accuracy - 3 + e, "weight_auc": None if e < 2 else 0.5 + e / 10}
        for e in range(epochs)
    ]
    if done and method != "erm":
        lines[-1] |= {"weight_mean_right": 0.75, "weight_mean_wrong": 0.25}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not done:
        return
    result = {"test_accuracy_percent_last10": accuracy, "weight_auc_last10": None if method == "erm" else 0.75}
    if teacher is not None:
        result["teacher_test_accuracy_percent_last10"] = teacher
    (folder / "result.json").write_text(json.dumps(result))
    given = np.array([0, 0, 1, 1, 2, 2])
    weights = {"grid": np.linspace(0, 3, 5), "functions": np.full((2, 5), 0.5)} if method != "erm" else {}
    np.savez(
        folder / "weights.npz",
        given=given,
        true=np.array([0, 1, 1, 1, 2, 2]),
        losses=np.linspace(0.1, 2, 6),
        weights=np.linspace(0.1, 0.9, 6),
        mean_losses=np.r_[np.linspace(0.2, 3, 5), np.nan],
        visits=np.array([4, 4, 4, 3, 3, 0]),
        meta_class=given // 2,
        centers=np.array([2.0, 4.0]),
        **weights,
    )
    np.savez(folder / "evaluation.npz", confusion=np.eye(C, dtype=int) * 5 + 1)
    np.savez(folder / "bias.npz", transition_matrix=np.eye(C))


def corrected(count=11, *, known=True, names=("a", "b", "c")):
    """corrected.npz's arrays: of each three examples one is right, one was wrong before, one is of no class."""
    rng = np.random.default_rng(0)
    given = rng.integers(C, size=count)
    new = (given + 1) % C
    true = np.choose(np.arange(count) % 3, [new, (given + 2) % C, np.full(count, -1)])
    counts = {
        "num_labels": 1234,
        "num_wrong": 500,
        "num_changed": 100 * count,
        "num_changed_rightly": 40 * count,
    }
    return {
        "images": rng.integers(256, size=(count, 6, 8, 1), dtype=np.uint8),
        "given": given,
        "new": new,
        "true": true if known else np.full(count, -1),
        "truth_known": np.array(known),
        "class_names": np.array(names),
        **{name: np.array(value) for name, value in counts.items()},
    }


def add_corrected(folder, **options):
    np.savez(folder / "corrected.npz", **corrected(**options))


def made(path):
    """Two biases, three methods, two seeds; of the second bias, not all is there."""
    for seed, accuracy in enumerate((60.0, 62.0)):
        make_run(path / f"set/sym_20/erm/seed{seed}", accuracy, method="erm")
        make_run(path / f"set/sym_20/cmwnet_sl/seed{seed}", accuracy + 10, teacher=accuracy + 12)
    make_run(path / "set/sym_100/erm/seed0", 50.0, method="erm")
    make_run(path / "set/sym_100/cmwnet_sl/seed1", 0.0, epochs=3, done=False)
    return find_runs([path])


def test_cells_are_means_over_seeds_with_the_teacher_apart_and_the_paper_beside(tmp_path):
    runs = made(tmp_path)
    table = accuracy_table(runs, {"set,sym_20,erm": (61.5, 0.25), "set,sym_100,erm": (49.0, None)})
    assert table.texts() == [
        ["", "set sym_20", "set sym_100"],
        ["erm", "61.00 ± 1.41 (2); paper 61.50 ± 0.25", "50.00 (1); paper 49.00"],
        ["cmwnet_sl", "71.00 ± 1.41 (2)", "-"],
        ["cmwnet_sl (teacher)", "73.00 ± 1.41 (2)", "-"],
    ]
    assert "| erm | 61.00 ± 1.41 (2); paper 61.50 ± 0.25 | 50.00 (1); paper 49.00 |" in table.markdown()
    assert table.rich().row_count == 3


def test_the_weight_auc_is_a_table_of_the_methods_that_have_weights(tmp_path):
    assert auc_table(made(tmp_path)).texts()[1:] == [["cmwnet_sl", "0.750 ± 0.000 (2)", "-"]]


def test_rare_classes_have_a_table_of_their_own_with_the_papers_numbers(tmp_path):
    """Runs whose classes are all of one size group are not in it; a group without classes has no row."""
    of_set = {"many": 80.0, "medium": None, "few": 12.5}
    for name, values in (
        ("imagenet_lt/erm", of_set),
        ("imagenet_lt/oltr", of_set | {"few": 30.0}),
        ("even/erm", {"many": 90.0}),
    ):
        folder = tmp_path / name / "seed0"
        make_run(folder, 50.0, method=folder.parent.name)
        result = json.loads((folder / "result.json").read_text())
        result |= {field: values.get(group) for group, field in SHOTS.items()}
        (folder / "result.json").write_text(json.dumps(result))
    paper = "experiments/paper_numbers.json"
    assert shots_table(find_runs([tmp_path]), lambda score: read_paper(paper, (score,))).texts() == [
        ["", "imagenet_lt"],
        ["erm, many shot", "80.00 (1); paper 40.90"],
        ["erm, few shot", "12.50 (1); paper 0.40"],
        ["oltr, many shot", "80.00 (1); paper 43.20"],
        ["oltr, few shot", "30.00 (1); paper 18.50"],
    ]


def test_a_csv_has_a_line_a_cell_with_all_digits(tmp_path):
    table = accuracy_table(made(tmp_path), {"set,sym_20,erm": (61.5, 0.25)})
    lines = list(csv.DictReader(csv_text([table]).splitlines()))
    assert len(lines) == 4
    first = lines[0]
    assert (first["column"], first["row"], first["seeds"], first["paper_sd"]) == (
        "set,sym_20",
        "erm",
        "0 1",
        "0.25",
    )
    assert float(first["sd"]) == np.std([60, 62], ddof=1)


def test_what_is_missing_or_unfinished_is_said(tmp_path):
    assert missing(made(tmp_path)) == [
        "set sym_100 erm: no run with seed 1",
        "set sym_100 cmwnet_sl: no run with seed 0",
        "set sym_100 cmwnet_sl: seed 1 has done 3 of 4 epochs",
    ]
    # Where a sweep has said which cells there are, no other is expected.
    (tmp_path / "cells.json").write_text('["set,sym_20,erm", "set,sym_20,cmwnet_sl", "set,sym_100,erm"]')
    runs, cells = find_runs([tmp_path]), find_cells([tmp_path])
    assert missing(runs, cells) == ["set sym_100 erm: no run with seed 1"]


def test_runs_that_no_sweep_has_placed_go_by_their_configs(tmp_path):
    make_run(tmp_path / "mine/first", 50.0, seed=7)
    make_run(tmp_path / "alone", 51.0, method="erm")
    own = find_runs([tmp_path / "mine", tmp_path / "alone"])
    assert [(run.column, run.row, run.seed) for run in own] == [((), "cmwnet", 7), ((), "erm", 0)]
    make_run(tmp_path / "mine/second", 50.0, seed=7)
    with pytest.raises(UsageError, match="are both cmwnet with seed 7"):
        find_runs([tmp_path / "mine"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        find_runs([tmp_path / "empty"])


def test_the_papers_errors_become_accuracies(tmp_path):
    table = {
        "score": "error",
        "columns": ["a,1", "a,2"],
        "rows": {"erm": [34.32, None], "mwnet": [[1.0, 0.5], 2]},
    }
    (tmp_path / "paper.json").write_text(json.dumps({"table": table}))
    assert read_paper(tmp_path / "paper.json") == {
        "a,1,erm": (65.68, None), "a,1,mwnet": (99.0, 0.5), "a,2,mwnet": (98, None)
    }  # fmt: skip
    (tmp_path / "paper.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        read_paper(tmp_path / "paper.json")


def test_figures_are_drawn_of_what_is_there(tmp_path):
    by_row = {}
    for run in made(tmp_path):
        if run.column == ("set", "sym_20"):
            by_row.setdefault(run.row, []).append(run)
    add_corrected(by_row["cmwnet_sl"][0].path)
    written = save_column_figures(by_row, tmp_path / "figures")
    names = {"learning_curves", "mean_weights", "weighting", "confusion", "loss_densities", "transition"}
    names.add("corrected_cmwnet_sl")
    assert {path.stem for path in written} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    add_corrected(by_row["cmwnet_sl"][0].path, count=0)
    assert corrected_sheets(by_row, tmp_path / "figures") == []
    unfinished = [run for run in made(tmp_path / "again") if run.result is None]
    assert [p.stem for p in save_column_figures({"x": unfinished}, tmp_path / "more")] == ["learning_curves"]


def test_panels_side_by_side_share_axes_and_say_seeds_bands_and_classes(tmp_path, monkeypatch):
    by_row = {}
    for run in made(tmp_path):
        if run.column == ("set", "sym_20"):
            by_row.setdefault(run.row, []).append(run)
            named = {"confusion": np.eye(C, dtype=int), "class_names": np.array(["cat", "dog", "owl"])}
            np.savez(run.path / "evaluation.npz", **named)
    by_row["mwnet"] = by_row["cmwnet_sl"][:1]
    drawn = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.update({path.stem: figure}))
    save_column_figures(by_row, tmp_path / "figures")
    for name, count in (("confusion", 3), ("loss_densities", 3), ("weighting", 2)):
        panels = [axes for axes in drawn[name].axes if axes.get_title(loc="left")]
        assert [axes.get_title(loc="left") for axes in panels] == [
            "cmwnet_sl, 2 seeds",
            *["erm, 2 seeds"] * (count == 3),
            "mwnet, 1 seed",
        ]
        assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1
        assert [bool(axes.get_ylabel()) for axes in panels] == [True] + [False] * (count - 1)
        assert "all seeds together" in drawn[name].get_supxlabel()
        if name != "weighting":
            assert [label.get_text() for label in panels[0].get_yticklabels()] == ["cat", "dog", "owl"]
    assert drawn["learning_curves"].legends[0].get_title().get_text().endswith("band: lowest to highest")


def sheet(monkeypatch, path, arrays):
    """(heading, annotations of each picture, boxes of all texts in dots) of a sheet of corrected labels."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    save_corrected_sheet(arrays, "method, seed 3", path)
    canvas = FigureCanvasAgg(drawn[0])
    canvas.draw()
    texts = [[t for t in axes.texts if isinstance(t, Annotation)] for axes in drawn[0].axes]
    everything = [drawn[0]._suptitle, *(t for own in texts for t in own)]
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in everything]
    assert all(box.x0 >= 0 and box.x1 <= drawn[0].bbox.width for box in boxes)
    return drawn[0]._suptitle.get_text(), [own for own in texts if own], boxes


def test_a_sheet_shows_given_over_new_and_whether_that_is_right(monkeypatch, tmp_path):
    arrays = corrected()
    heading, pictures, _ = sheet(monkeypatch, tmp_path / "sheet.png", arrays)
    assert (
        "method, seed 3: 1,234 labels, 500 of them wrong\n1,100 changed, 40.0% of these to the true" in heading
    )
    assert len(pictures) == 11
    for i, texts in enumerate(pictures):
        given, new, true = (int(arrays[name][i]) for name in ("given", "new", "true"))
        verdict = ("✓", f"✗ is {'abc'[true]}", "✗ is of no class")[i % 3]
        from_top = sorted(texts, key=lambda text: -text.xyann[1])
        assert [text.get_text() for text in from_top] == ["abc"[given], f"→ {'abc'[new]}", verdict]
        red, blue, grey = (int(text.get_color()[1:], 16).to_bytes(3, "big") for text in from_top)
        assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and len(set(grey)) == 1
    heading, pictures, _ = sheet(monkeypatch, tmp_path / "sheet.png", corrected(known=False))
    assert "1,100 of 1,234 labels changed, whether rightly is not known" in heading
    assert all(len(texts) == 2 for texts in pictures)


def test_many_corrected_labels_are_on_sheets_of_five_rows_of_eight(monkeypatch, tmp_path):
    arrays = corrected(97, names=["n01440764 tench, Tinca tinca", "n0144 eel", "cat"])
    pages = corrected_pages(arrays)
    assert [len(page["images"]) for page in pages] == [40, 40, 17]
    np.testing.assert_array_equal(np.concatenate([page["new"] for page in pages]), arrays["new"])
    _, pictures, _ = sheet(monkeypatch, tmp_path / "sheet.png", pages[2])
    shown = {text.get_text() for texts in pictures for text in texts}
    assert len(pictures) == 17 and any(text.startswith("tench") for text in shown) and "n0144 eel" in shown


@pytest.mark.parametrize("count", [1, 40])
def test_no_line_of_a_sheet_reaches_into_another(count, monkeypatch, tmp_path):
    names = ["Boeing 737-800 freighter", "WWWWWWWWWWWWWWWWWWWWWWW", "it"]
    _, pictures, boxes = sheet(monkeypatch, tmp_path / "sheet.png", corrected(count, names=names))
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    shown = {text.get_text() for texts in pictures for text in texts}
    assert "Boeing 737-800 freighter" not in shown
    assert count == 1 or "it" in shown
