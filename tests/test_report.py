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
from cmwnet_jax.report.differences import differences, first_difference
from cmwnet_jax.report.figures import corrected_sheets, save_column_figures
from cmwnet_jax.report.find import find_runs
from cmwnet_jax.report.missing import missing
from cmwnet_jax.report.paper import read_paper
from cmwnet_jax.report.selective import selective_table
from cmwnet_jax.report.tables import accuracy_table, auc_table, csv_text, shots_table
from cmwnet_jax.report.write import write_report
from cmwnet_jax.runs.stored import SHOTS, read_cells

C = 3


def make_run(folder, accuracy, *, method="cmwnet", epochs=4, done=True, teacher=None, seed=None, **fields):
    """A run as the launcher leaves it, of six examples; the folder's name gives its seed."""
    folder.mkdir(parents=True)
    if seed is None:
        seed = int(folder.name.removeprefix("seed")) if folder.name.startswith("seed") else 0
    (folder / "config.json").write_text(json.dumps({"num_epochs": 4, "method": method, "seed": seed} | fields))
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
    cells = ["set,sym_20,erm", "set,sym_20,cmwnet_sl", "set,sym_100,erm"]
    for contents in (cells, {"": cells[:1], "compare": cells[1:]}):
        (tmp_path / "cells.json").write_text(json.dumps(contents))
        assert missing(find_runs([tmp_path])) == ["set sym_100 erm: no run with seed 1"]


def test_what_is_missing_in_a_folder_is_said_whatever_is_known_of_others(tmp_path):
    made(tmp_path / "known")
    cells = ["set,sym_20,erm", "set,sym_20,cmwnet_sl", "set,sym_100,erm"]
    (tmp_path / "known/cells.json").write_text(json.dumps({"compare": cells}))
    make_run(tmp_path / "unknown/other/a/erm/seed0", 50.0, method="erm")
    make_run(tmp_path / "unknown/other/b/mwnet/seed1", 50.0, method="mwnet")
    alone, both = (
        missing(find_runs([tmp_path / name for name in names])) for names in (["unknown"], ["known", "unknown"])
    )
    assert len(alone) == 4 and sorted(both) == sorted([*alone, "set sym_100 erm: no run with seed 1"])


def test_cells_that_are_methods_alone_are_expected_in_the_column_of_their_data_set(tmp_path):
    data = {"name": "animal10n", "bias": "none"}
    make_run(tmp_path / "sweep/erm/seed0", 50.0, method="erm", data=data)
    make_run(tmp_path / "sweep/cmwnet/seed1", 50.0, data=data)
    (tmp_path / "sweep/cells.json").write_text('{"table5_animal10n": ["erm", "cmwnet", "plc"]}')
    runs = find_runs([tmp_path / "sweep"])
    assert missing(runs) == [
        "animal10n erm: no run with seed 1",
        "animal10n cmwnet: no run with seed 0",
    ]
    paper = read_paper("experiments/paper_numbers.json", of_unknown=False)
    assert accuracy_table(runs, paper).texts()[1] == ["erm", "50.00 (1); paper 79.40 ± 0.14"]


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


def test_the_seed_of_a_run_is_the_one_it_was_trained_with(tmp_path):
    make_run(tmp_path / "set/erm/seed1", 50.0, method="erm", seed=0)
    assert [run.seed for run in find_runs([tmp_path])] == [0]
    make_run(tmp_path / "set/erm/seed0", 60.0, method="erm", seed=0)
    with pytest.raises(
        UsageError, match=r"both erm with seed 0 \(config.json in .*/seed1 says so\): train .*1"
    ):
        find_runs([tmp_path / "set"])


def test_runs_of_a_cell_whose_configs_differ_are_told(tmp_path):
    fields = {"data": {"bias": "none", "raw_dir": "/a", "posterior": "x"}, "weight_net": {"hidden": 100}}
    other = {"data": {**fields["data"], "raw_dir": "/b", "posterior": "y"}, "weight_net": {"hidden": 50}}
    for seed, (own, erm) in enumerate(((fields, fields), (other, {**fields, "data": other["data"], "new": 1}))):
        make_run(tmp_path / f"runs/set/cmwnet/seed{seed}", 50.0, **own)
        make_run(tmp_path / f"runs/set/erm/seed{seed}", 50.0, method="erm", **erm)
    make_run(tmp_path / "runs/set/erm/seed2", 50.0, method="erm", num_epochs=9, done=False)
    runs = find_runs([tmp_path / "runs"])
    said = "set cmwnet: weight_net.hidden is 100 with seed 0 and 50 with seed 1"
    assert differences(runs) == {(("set",), "cmwnet"): said}
    assert accuracy_table(runs, {}).texts()[1:] == [
        ["erm", "50.00 ± 0.00 (2)"],
        ["cmwnet", "50.00 ± 0.00 (2, configs differ)"],
    ]
    write_report([tmp_path / "runs"], tmp_path / "out", figures=False)
    assert f"- configs differ: {said}\n" in (tmp_path / "out/tables.md").read_text()
    without = {**fields, "data": {**fields["data"], "posterior": ""}}
    assert first_difference(fields, without) == ("data.posterior", "x", "")


def test_a_data_set_under_two_biases_has_two_columns(tmp_path):
    for bias in ("none", "sym_20"):
        data = {"name": "digits", "bias": bias}
        make_run(tmp_path / bias / "erm/seed0", 50.0, method="erm", data=data)
    columns = {run.column for run in find_runs([tmp_path / "none", tmp_path / "sym_20"])}
    assert columns == {("digits", "none"), ("digits", "sym_20")}
    assert [run.column for run in find_runs([tmp_path / "sym_20"])] == [("digits",)]


def test_the_papers_numbers_stand_beside_the_cells_of_their_config_file_alone(tmp_path):
    """Of a sweep, the file is known; with --paper, runs whose file is not known go by their cells' names."""
    table = {"score": "accuracy", "columns": ["set,20"], "rows": {"erm": [70.0]}}
    (tmp_path / "paper.json").write_text(json.dumps({"table": {"config": "table1", **table}}))
    make_run(tmp_path / "runs/set/20/erm/seed0", 50.0, method="erm")
    lists = {
        "": None,
        "old": ["set,20,erm"],
        "own": {"table1": ["set,20,erm", "set,20,cmwnet"], "table2": ["set,20,gce"]},
        "other": {"table15": ["set,20,erm"], "table1": []},
        "two": {"table1": ["set,20,erm"], "table15": ["set,20,erm"]},
    }
    beside = {}
    for name, cells in lists.items():
        if cells is not None:
            (tmp_path / "runs/cells.json").write_text(json.dumps(cells))
        runs = find_runs([tmp_path / "runs"])
        beside[name] = [
            accuracy_table(runs, read_paper(tmp_path / "paper.json", of_unknown=asked)).cells[
                "erm", ("set", "20")
            ]
            for asked in (False, True)
        ]
    numbers = {name: [cell.paper and cell.paper[0] for cell in cells] for name, cells in beside.items()}
    assert numbers == {
        "": [None, 70.0], "old": [None, 70.0], "own": [70.0, 70.0], "other": [None, None], "two": [None, 70.0]
    }  # fmt: skip
    (tmp_path / "paper.json").write_text(json.dumps({"table": table}))
    paper = read_paper(tmp_path / "paper.json", of_unknown=False)
    assert accuracy_table(runs, paper).cells["erm", ("set", "20")].paper == (70.0, None)


def test_selective_errors_stand_beside_the_papers_of_their_config_file_alone(tmp_path):
    run = tmp_path / "set/20/net/coverage=70/seed0"
    make_run(run, 50.0, method="selectivenet")
    arrays = {
        "coverages_percent": [70.0],
        "accepted": [3],
        "wrong": [1],
        "curve_percent": [0.0, 25.0, 25.0, 50.0],
    }
    np.savez(run / "selective.npz", **arrays)
    table = {"score": "selective_error", "columns": ["set,20,net"], "rows": {"70": [30.0]}}
    (tmp_path / "paper.json").write_text(json.dumps({"table": {"config": "table15", **table}}))
    for config_file, number in (("table15", (30.0, None)), ("other", None)):
        (tmp_path / "cells.json").write_text(json.dumps({config_file: ["set,20,net,coverage=70"]}))
        paper = read_paper(tmp_path / "paper.json", ("selective_error",))
        assert selective_table(find_runs([tmp_path]), paper).cells["70", ("set", "20", "net")].paper == number


def test_lists_of_cells_are_by_config_file_and_older_ones_are_read(tmp_path):
    assert read_cells(tmp_path) == {}
    for written, read in (('["a,b"]', {"": ["a,b"]}), ('{"x": ["a"]}', {"x": ["a"]})):
        (tmp_path / "cells.json").write_text(written)
        assert read_cells(tmp_path) == read
    for written in ("3", '{"x": "a"}', '{"x": [1]}'):
        (tmp_path / "cells.json").write_text(written)
        with pytest.raises(UsageError, match="cells are no strings, expected lists of strings by config file"):
            read_cells(tmp_path)


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


def test_learning_curves_are_means_over_the_seeds_that_the_legend_counts(tmp_path, monkeypatch):
    """Finished seeds if there are any; else the epochs that all seeds have done."""
    for seed, accuracy in enumerate((60.0, 62.0, 90.0)):
        make_run(tmp_path / f"set/erm/seed{seed}", accuracy, method="erm", epochs=4 - seed // 2, done=seed < 2)
        make_run(tmp_path / f"set/gce/seed{seed}", accuracy, method="gce", epochs=3 - seed, done=False)
    make_run(tmp_path / "set/gce/seed3", 0.0, method="gce", epochs=0, done=False)
    by_row = {}
    for run in find_runs([tmp_path]):
        by_row.setdefault(run.row, []).append(run)
    drawn = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.update({path.stem: figure}))
    save_column_figures(by_row, tmp_path / "figures")
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn["learning_curves"].axes[0].lines}
    assert lines == {
        "erm, 2 seeds": [[1, 58], [2, 59], [3, 60], [4, 61]],
        "gce, 3 seeds": [[1, pytest.approx(np.mean([57, 59, 87]))]],
    }


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
