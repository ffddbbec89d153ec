"""The audit: rankings against closed forms, files from made runs, and what a run leaves."""

import base64
import csv
import dataclasses
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax.audit import scores, write
from cmwnet_jax.audit.estimate import agreement, wrong_probability
from cmwnet_jax.audit.examples import read_examples
from cmwnet_jax.audit.export import from_text
from cmwnet_jax.audit.summary import false_negative_rate, ranking_auc
from cmwnet_jax.audit.suspects import COLUMNS, filled_weights
from cmwnet_jax.audit.write import group_by_pair, write_audit
from cmwnet_jax.data import example_names
from cmwnet_jax.data.bias_record import save_record
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import corrections
from cmwnet_jax.report.find import find_runs
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.config import as_json
from cmwnet_jax.train.epoch import margins
from cmwnet_jax.train.loop import train
from experiments import audit_table

ROOT = Path(__file__).parent.parent
N, C = 12, 3
GIVEN = np.arange(N) % C
NAMES = np.array(["cat", "<b>dog</b>", "große Eule"])
CHANCE = [[1, 1, 1]] * C  # of nine test labels, a classifier that guesses has three


def arrays_of(seed=0):
    """The arrays of a run by file; rows 3 and 7 are wrong, and have the highest losses."""
    rng = np.random.default_rng(seed)
    losses = rng.uniform(0.1, 1, N)
    losses[[3, 7]] = [5, 4]
    true = GIVEN.copy()
    true[[3, 7]] = (GIVEN[[3, 7]] + 1) % C
    other = np.where(true == GIVEN, (GIVEN + 2) % C, true)
    given_probability = np.where(true == GIVEN, 0.8, 0.1)
    weights = 1 / (1 + losses)
    weights[5] = np.nan
    return {
        "weights": {
            "ids": 2 * np.arange(N),
            "given": GIVEN,
            "true": true,
            "truth_known": np.array(True),
            "meta_class": GIVEN // 2,
            "centers": np.array([2.0, 4.0]),
            "losses": np.where(np.arange(N) == 5, np.nan, losses),
            "weights": weights,
            "seen": np.arange(N) != 5,
            "mean_losses": losses,
            "mean_margins": margins(losses),
            "visits": np.full(N, 4),
        },
        "predictions": {
            "given_probability": given_probability,
            "other": other,
            "other_probability": (1 - given_probability) * 0.75,
            "class_names": NAMES,
        },
        "bias": {"transition_matrix": np.eye(C), "ids": 2 * np.arange(N)},
        "evaluation": {"confusion": np.eye(C, dtype=int)},
    }


def make_run(folder, seed=0, names=None, probabilities=True, **changes):
    """A finished run; `changes` are of arrays, as file__array; None takes a file out."""
    folder.mkdir(parents=True)
    arrays = arrays_of(seed)
    for place, value in changes.items():
        file, _, array = place.partition("__")
        if array:
            arrays[file][array] = value
        elif value is None:
            del arrays[file]
        else:
            arrays[file] = value
    for file, content in arrays.items():
        np.savez(folder / f"{file}.npz", **content)
    data = {"name": "digits", "dir": "", "raw_dir": ""}
    (folder / "config.json").write_text(
        json.dumps({"num_epochs": 4, "method": "cmwnet", "seed": seed, "data": data})
    )
    lines = [json.dumps({"epoch": epoch, "test_accuracy_percent": 50}) for epoch in range(4)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    (folder / "result.json").write_text('{"test_accuracy_percent_last10": 50}')
    facts = {"dataset": "digits", "dataset_checksum": "a", "name": "symmetric_20", "truth_known": True}
    (folder / "bias.json").write_text(json.dumps({**facts, "seed": seed, "files": {"data.name": "0-a"}}))
    if names is not None:
        (folder / "names.json").write_text(json.dumps(names))
    if probabilities:
        rows = np.random.default_rng(seed).dirichlet(np.ones(C), N)
        np.save(folder / "probabilities.npy", rows.astype(np.float16))
    return folder


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_weights_that_the_last_epoch_left_out_are_those_of_the_nearest_mean_loss():
    """Of the same meta-class, if it has any; its median for an example without a visit."""
    missing = np.nan
    table = {
        "weight": np.array([0.9, 0.5, 0.1, missing, missing, missing, 0.7, missing], np.float32),
        "loss": np.array([0.1, 1.0, 4.0, 0.4, 9.0, missing, 1.0, 0.9], np.float32),
        "meta_class": np.array([0, 0, 0, 0, 0, 0, 1, 2]),
    }
    expected = np.array([0.9, 0.5, 0.1, 0.9, 0.1, 0.5, 0.7, 0.5], np.float32)
    np.testing.assert_array_equal(filled_weights(table), expected)
    assert np.isnan(table["weight"]).sum() == 4
    table["loss"][[1, 6]], table["loss"][4] = np.inf, np.inf
    assert filled_weights(table)[4] == np.float32(0.5)
    assert np.isnan(filled_weights(table | {"weight": np.full(8, np.nan, np.float32)})).all()


class TestScores:
    def test_they_rank_as_their_formulas_say(self):
        table = {
            "loss": np.array([1.0, 3.0, np.nan, 2.0]),
            "margin": np.array([1.0, -2.0, np.nan, 0.5]),
            "given_probability": np.array([0.9, 0.2, 0.5, 0.4]),
            "weight": np.array([0.5, 0.25, 0.75, 0.125]),
            "meta_class": np.array([0, 1, 1, 0]),
            "last_loss": np.array([0.0, 1.0, 2.0, 3.0]),
        }
        expected = {
            "mean_loss": [1, 3, 2, 2],
            "margin": [-1, 2, -0.5, -0.5],
            "label": [0.1, 0.8, 0.5, 0.6],
            "weight": [0.25, 0.75, 0.25, 0.75],
            "combined": np.mean(
                [[0.125, 0.875, 0.5, 0.5], [0.125, 0.875, 0.375, 0.625], [0.25, 0.75, 0.25, 0.75]], 0
            ),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(scores.score(table, name), values, rtol=1e-12, err_msg=name)
        assert expected.keys() == scores.SCORES.keys()
        del table["weight"]
        np.testing.assert_allclose(scores.score(table, "combined"), [0.125, 0.875, 0.4375, 0.5625])
        with pytest.raises(
            UsageError,
            match="score is 'weight', but the run learned no weights: choose one of mean_loss, margin, label, ",
        ):
            scores.score(table, "weight")
        with pytest.raises(UsageError, match="score is 'mean', expected one of .*did you mean 'mean_loss'"):
            scores.chosen("mean", False)
        assert [scores.chosen("auto", pseudo) for pseudo in (False, True)] == ["mean_loss", "label"]

    def test_a_loss_of_cross_entropy_gives_the_soft_margin(self):
        logits = np.random.default_rng(0).normal(size=(50, 4)) * 5
        others = np.log(np.sum(np.exp(logits[:, 1:]), axis=1))
        losses = np.log(np.sum(np.exp(logits), axis=1)) - logits[:, 0]
        kept = losses > 1e-6
        np.testing.assert_allclose(margins(losses)[kept], (logits[:, 0] - others)[kept], rtol=1e-6)
        assert np.isfinite(margins(np.array([0.0, 1e-30, 1e4], np.float32))).all()

    def test_auc_and_false_negatives_are_scikit_learns_and_a_loops(self):
        rng = np.random.default_rng(1)
        score, is_wrong = rng.integers(6, size=200).astype(float), rng.random(200) < 0.3
        assert ranking_auc(score, is_wrong) == pytest.approx(roc_auc_score(is_wrong, score), abs=1e-12)
        score += rng.random(200)
        listed = sorted(range(200), key=lambda i: -score[i])[: is_wrong.sum()]
        missed = is_wrong.sum() - sum(is_wrong[i] for i in listed)
        assert false_negative_rate(score, is_wrong) == pytest.approx(missed / is_wrong.sum(), abs=1e-12)


class TestEstimate:
    def test_of_wrong_labels_half_are_memorised_and_all_are_counted(self):
        """1,000 examples; the 200 most suspicious are wrong, and every other of these is contradicted."""
        score = np.arange(1000.0)
        contradicted = (score >= 800) & (score % 2 == 0)
        chance = wrong_probability(score, contradicted)
        assert np.sum(chance) == pytest.approx(200, rel=0.02)
        assert np.all(np.diff(chance) >= 0) and chance[:799].max() == 0 and chance[805:].min() > 0.9

    def test_nothing_contradicted_is_nothing_wrong(self):
        assert not wrong_probability(np.arange(5.0), np.zeros(5, bool)).any()

    @pytest.mark.parametrize("contradicted", [[False, False, True], [True, True, True], [True, False, False]])
    def test_it_is_a_probability_whatever_the_order(self, contradicted):
        chance = wrong_probability(np.array([2.0, 1.0, 0.0]), np.array(contradicted))
        assert np.all((chance >= 0) & (chance <= 1))


class TestSuspects:
    def test_the_table_is_sorted_and_has_its_columns(self, tmp_path):
        run = make_run(tmp_path / "run")
        table = cmw.find_suspects(run)
        assert tuple(table) == COLUMNS and all(len(column) == N for column in table.values())
        assert table["rank"].tolist() == list(range(1, N + 1)) and (np.diff(table["score"]) <= 0).all()
        assert table["id"][:2].tolist() == [6, 14]
        assert table["given"][:2].tolist() == [NAMES[0], NAMES[1]]
        assert table["suggested"][:2].tolist() == [NAMES[1], NAMES[2]]
        np.testing.assert_allclose(table["loss"][:2], [5, 4], rtol=1e-6)
        assert table["path"].tolist() == [""] * N and not np.isnan(table["weight"]).any()
        assert cmw.find_suspects([str(run)], top=2)["id"].tolist() == [6, 14]

    def test_runs_of_several_seeds_are_averaged(self, tmp_path):
        runs = [make_run(tmp_path / str(seed), seed) for seed in (0, 1)]
        table = read_examples(runs).table
        loss = np.mean([arrays_of(seed)["weights"]["mean_losses"] for seed in (0, 1)], axis=0)
        np.testing.assert_allclose(table["loss"], loss, rtol=1e-6)
        assert np.isnan(table["weight"][5]) and np.isnan(table["weight"]).sum() == 1

    def test_the_other_class_of_several_runs_is_the_one_with_most_votes(self, tmp_path):
        votes = (([1, 2], [0.5, 0.2]), ([2, 2], [0.3, 0.2]), ([2, 0], [0.4, 0.5]))
        runs = []
        for seed, (other, chances) in enumerate(votes):
            own = arrays_of(seed)["predictions"]
            own["other"][:2], own["other_probability"][:2] = other, chances
            runs.append(make_run(tmp_path / str(seed), seed, predictions=own))
        table = read_examples(runs).table
        assert table["other"][:2].tolist() == [2, 0]
        np.testing.assert_allclose(table["other_probability"][:2], [0.7 / 3, 0.5 / 3])

    def test_names_and_paths_come_from_the_data_set(self, tmp_path):
        ids = [f"train/cat/{i}.png" for i in range(N)]
        assert cmw.find_suspects(make_run(tmp_path / "a", names={"id": ids}))["id"][0] == ids[3]
        paths = [f"/data/{i}.png" for i in range(N)]
        table = cmw.find_suspects(make_run(tmp_path / "b", names={"path": paths}))
        assert (table["id"][0], table["path"][0]) == (6, paths[3])

    def test_pseudo_labels_come_before_the_final_classifier(self, tmp_path):
        beside = {name: arrays_of()["predictions"][name] for name in ("other", "other_probability")}
        own = {**beside, "given_probability": np.where(np.arange(N) == 8, 0.0, 0.9)}
        table = cmw.find_suspects(make_run(tmp_path / "run", pseudo_labels=own), top=1)
        assert table["id"].tolist() == [16] and table["score"].tolist() == [1.0]

    def test_a_method_without_weights_has_none(self, tmp_path):
        run = make_run(tmp_path / "run", weights__weights=np.ones(N))
        assert "weight" not in read_examples(run).table and (cmw.find_suspects(run)["weight"] == 1).all()
        with pytest.raises(UsageError, match="learned no weights"):
            cmw.find_suspects(run, score="weight")


class Outline(html.parser.HTMLParser):
    """The texts and pictures of a page; fails on tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.texts, self.pictures, self._open = [], 0, []

    def handle_starttag(self, tag, attrs):
        self.pictures += tag == "img"
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def outline(path):
    page = Outline()
    page.feed(path.read_text())
    page.close()
    assert not page._open
    return page


class TestFiles:
    def test_the_gallery_says_if_it_shows_fewer_than_are_listed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(write, "_SHOWN", 1)
        write_audit([make_run(tmp_path / "run")], tmp_path / "out", top=5)
        shown = outline(tmp_path / "out/gallery.html").texts
        assert "Shown here are 1 of the 5 suspects that suspects.csv lists." in shown

    def test_all_are_written_and_agree(self, tmp_path, capsys):
        """The made run has other classes than the digits, so that its page is without images."""
        runs = [make_run(tmp_path / str(seed), seed) for seed in (0, 1)]
        summary = write_audit(runs, tmp_path / "out", top=5)
        out = tmp_path / "out"
        suspects = lines_of(out / "suspects.csv")
        assert [line["id"] for line in suspects[:2]] == ["6", "14"] and len(suspects) == 5
        assert tuple(suspects[0]) == COLUMNS and suspects[0]["suggested"] == NAMES[1]
        table = pq.read_table(out / "examples.parquet")
        assert table["row"].to_pylist() == [2 * i for i in range(N)]
        assert {*COLUMNS, "wrong_probability", "true"} <= {*table.column_names}
        weights = lines_of(out / "sample_weight.csv")
        assert [line["id"] for line in weights] == [str(2 * i) for i in range(N)]
        expected = np.mean([arrays_of(seed)["weights"]["weights"] for seed in (0, 1)], axis=0)
        found = np.array([float(line["sample_weight"]) for line in weights])
        np.testing.assert_allclose(np.delete(found, 5), np.delete(expected, 5), rtol=1e-5)
        probabilities = np.load(out / "pred_probs.npy")
        stored = np.mean([np.load(run / "probabilities.npy").astype(np.float32) for run in runs], axis=0)
        np.testing.assert_allclose(probabilities, stored / stored.sum(axis=1, keepdims=True), rtol=1e-6)
        assert probabilities.dtype == np.float32
        rows = lines_of(out / "pred_probs_rows.csv")
        assert [line["label"] for line in rows] == [str(label) for label in GIVEN]
        assert json.loads((out / "summary.json").read_text()) == summary
        assert (summary["known_wrong"], summary["auc"], summary["contradicted"]) == (2, 1, 2)
        assert summary["estimated_wrong"] == pytest.approx(2)
        assert [(pair["given"], pair["suggested"]) for pair in summary["pairs"]] == [
            (NAMES[0], NAMES[1]),
            (NAMES[1], NAMES[2]),
        ]
        page = outline(out / "gallery.html")
        assert page.pictures == 0 and "<b>dog</b>" in page.texts and "große Eule" in page.texts
        printed = capsys.readouterr()
        assert (
            "About 2 labels are wrong" in printed.out
            and "gallery shows names and paths (or texts) alone" in printed.err
        )
        assert not (out / "suspects.png").exists()

    def test_a_classifier_that_has_memorised_wrong_labels_is_told(self, tmp_path, capsys):
        run = make_run(tmp_path / "run", predictions__given_probability=np.full(N, 0.9))
        summary = write_audit([run], tmp_path / "out")
        assert (summary["estimated_wrong"], summary["first_estimated_are_wrong"]) == (0, None)
        assert not summary["is_sure"]
        told = f"memorised some: {summary['unlikely_on_average']} labels had less than half of the probability"
        assert summary["unlikely_on_average"] == np.sum(arrays_of()["weights"]["mean_losses"] > np.log(2))
        said = capsys.readouterr().out
        assert told in said and "labels are wrong (" not in said

    def test_test_labels_of_one_class_leave_the_number_open(self, tmp_path, capsys):
        confusion = np.zeros_like(CHANCE)
        confusion[1, 1] = 5
        summary = write_audit([make_run(tmp_path / "run", evaluation__confusion=confusion)], tmp_path / "out")
        assert not summary["is_sure"] and summary["test_classes"] == 1
        said = capsys.readouterr().out
        assert "all test labels are of one class" in said and "chance" not in said

    def test_a_classifier_that_has_hardly_learned_leaves_the_number_open(self, tmp_path, capsys):
        few = {"evaluation__confusion": np.array(CHANCE)}
        summary = write_audit([make_run(tmp_path / "run", **few)], tmp_path / "out")
        assert not summary["is_sure"]
        said = capsys.readouterr().out
        assert "Not sure how many labels are wrong: the classifier agrees with 33.3% of the test labels" in said
        assert "expected to be wrong" not in said and "labels are wrong (" not in said
        shown = outline(tmp_path / "out/gallery.html").texts
        assert "?" in shown and not {">99%", "wrong, estimated"} & {*shown}
        sure = [make_run(tmp_path / "a"), make_run(tmp_path / "b", 1, evaluation__confusion=np.array(CHANCE))]
        both = write_audit(sure, tmp_path / "both")["test_agreement"]
        assert both["share"] == 6 / 12 and both["by_chance"] == pytest.approx(1 / 3)
        assert write_audit([make_run(tmp_path / "c", evaluation=None)], tmp_path / "old")["is_sure"]

    def test_neither_does_a_teacher_that_has_hardly_learned(self, tmp_path):
        """The pseudo-labels are the teacher's, and the classifier has learned."""
        arrays = arrays_of()["predictions"]
        pseudo = {name: arrays[name] for name in arrays if name != "class_names"}
        run = make_run(tmp_path / "run", pseudo_labels=pseudo)
        for percent, is_sure in ((35, False), (90, True)):
            (run / "result.json").write_text(json.dumps({"teacher_test_accuracy_percent_last10": percent}))
            summary = write_audit([run], tmp_path / str(percent))
            assert summary["is_sure"] == is_sure
            assert ("the teacher of the pseudo-labels agrees" in summary["sentences"][1]) != is_sure
        assert summary["test_agreement"]["by_chance"] == pytest.approx(1 / 3)

    def test_texts_are_no_formulas_in_spreadsheets_and_come_back(self, tmp_path):
        ids = ["=1+1", "+a", "-5", "@x", "'=1", "''", "-5-5", "-x", "plain", "a=b", "\uff1dx", "+1.5"]
        paths = ["=HYPERLINK(1)", *["- no, yes"] * 11]
        run = make_run(tmp_path / "run", names={"id": ids, "path": paths})
        write_audit([run], tmp_path / "out", score="margin")
        lines = lines_of(tmp_path / "out/suspects.csv")
        assert [from_text(line["id"]) for line in lines] == cmw.find_suspects(run)["id"].tolist()
        plain = [line["id"] for line in lines if line["id"] in ids]
        assert {*plain} == {"-5", "''", "plain", "a=b", "+1.5"}  # numbers are no formulas
        assert {line["path"] for line in lines} == {"'=HYPERLINK(1)", "'- no, yes"}
        assert min(float(line["score"]) for line in lines) < 0
        assert [line["id"] for line in lines_of(tmp_path / "out/sample_weight.csv")] == ids

    def test_agreement_is_cohens(self):
        rng = np.random.default_rng(0)
        labels, predictions = rng.integers(3, size=50), rng.integers(3, size=50)
        predictions[:30] = labels[:30]
        found = agreement(confusion_matrix(labels, predictions))
        assert found.share == np.mean(labels == predictions)
        np.testing.assert_allclose(found.kappa, cohen_kappa_score(labels, predictions), rtol=1e-12)
        assert agreement(np.diag([4, 0])).kappa == 0  # one class tells nothing

    def test_runs_without_probabilities_leave_these_out(self, tmp_path):
        runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", 1, probabilities=False)]
        write_audit(runs, tmp_path / "out")
        assert not (tmp_path / "out/pred_probs.npy").exists() and (tmp_path / "out/gallery.html").exists()

    def test_the_page_shows_the_most_frequent_pairs_and_not_too_many(self, tmp_path):
        ranked = {
            "row": np.arange(900),
            "given_class": np.arange(900) % 3,
            "suggested_class": np.where(np.arange(900) < 600, 3, 4),
            "wrong_probability": np.ones(900),
        }
        ranked["given"], ranked["suggested"] = (
            ranked[f"{n}_class"].astype(str) for n in ("given", "suggested")
        )
        groups = group_by_pair(ranked, 700)
        assert [(g, s, count, len(shown["row"])) for g, s, count, shown in groups] == [
            ("0", "3", 200, 24), ("1", "3", 200, 24), ("2", "3", 200, 24),
            ("0", "4", 34, 24), ("1", "4", 33, 24), ("2", "4", 33, 24),
        ]  # fmt: skip
        assert groups[0][3]["row"].tolist() == list(range(0, 72, 3))
        ranked["wrong_probability"] = np.where(np.arange(900) == 1, 0.9, 0.001)  # a single wrong label
        assert group_by_pair(ranked, 700)[0][:3] == ("1", "3", 200)


MISTAKES = {
    "no run": (lambda path: path / "none", "which holds no run: name a folder that cmwnet_jax.train has writ"),
    "unfinished": (
        lambda path: spoilt(path, lambda run: (run / "result.json").unlink()),
        "which is not finished: train it to the end first",
    ),
    "older": (
        lambda path: make_run(path, predictions=None),
        "which left no predictions.npz, as a run of an ol",
    ),
    "without history": (
        lambda path: make_run(
            path, weights={k: v for k, v in arrays_of()["weights"].items() if k[:5] != "mean_"}
        ),
        "weights.npz has no mean_losses, as those of older versions: train the run again",
    ),
    "candidate sets": (
        lambda path: make_run(path, bias__candidates=np.ones((N, C), bool)),
        "whose examples have sets of candidate labels, expected one given label each",
    ),
    "a class that there is not": (
        lambda path: make_run(path, predictions__other=np.full(N, C)),
        "predictions.npz cannot be used .its array 'other' has 3 to 3, expected less than 3.: bring back",
    ),
    "no label": (
        lambda path: make_run(path, weights__given=np.where(GIVEN == 1, -1, GIVEN)),
        "expected less than 3|where some examples have no given label",
    ),
    "a pseudo-label of no class": (
        lambda path: make_run(path, pseudo_labels={**arrays_of()["predictions"], "other": np.full(N, C)}),
        "pseudo_labels.npz has other classes than the run's 3: bring back a copy",
    ),
    "not a number": (
        lambda path: make_run(path, predictions__given_probability=np.full(N, np.nan)),
        "its array 'given_probability' has NaN or infinite numbers",
    ),
    "of another length": (
        lambda path: make_run(path, predictions={**arrays_of()["predictions"], **shorter("predictions")}),
        "predictions.npz is of 11 examples, expected 12 as in weights.npz",
    ),
    "names of another length": (
        lambda path: make_run(path, names={"id": ["a"]}),
        "names.json cannot be used .its 'id' is not a list of 12 strings.: bring back a copy",
    ),
    "a bias.json that is none": (
        lambda path: spoilt(path, lambda run: (run / "bias.json").write_text("[]")),
        "bias.json cannot be used .it holds a list, expected an object.: bring back a copy",
    ),
}


def shorter(file):
    return {name: values[1:] for name, values in arrays_of()[file].items() if len(values) == N}


def spoilt(path, change):
    run = make_run(path)
    change(run)
    return run


@pytest.mark.parametrize("name", MISTAKES)
def test_a_run_that_cannot_be_used_is_told_in_a_sentence(name, tmp_path):
    make, message = MISTAKES[name]
    with pytest.raises(UsageError, match=message):
        write_audit([make(tmp_path / "run")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


OTHERS = {
    "labels": (
        {"weights__given": GIVEN[::-1]},
        {},
        "has other given labels .bias 'symmetric_20', seed 1. than",
    ),
    "classes": ({"predictions__class_names": NAMES[::-1]}, {}, "has other given labels"),
    "data": ({}, {"bias.json": ("dataset", "mnist")}, "has another data set .mnist. than"),
    "contents": ({}, {"bias.json": ("dataset_checksum", "b")}, "has another version of the data set"),
    "files": ({}, {"bias.json": ("files", {"data.name": "0-b"})}, "was trained on other files of the data set"),
    "method": ({}, {"config.json": ("method", "erm")}, "is of erm and .* of cmwnet, expected one method"),
    "meta-classes": ({"weights__meta_class": GIVEN * 0}, {}, "expected one method with the same meta-classes"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_runs_that_differ_in_more_than_the_seed_are_refused(name, tmp_path):
    changes, fields, message = OTHERS[name]
    first, other = make_run(tmp_path / "first"), make_run(tmp_path / "other", 1, **changes)
    for file, (field, value) in fields.items():
        content = json.loads((other / file).read_text())
        (other / file).write_text(json.dumps({**content, field: value}))
    with pytest.raises(UsageError, match=message):
        cmw.find_suspects([first, other])


def test_arguments_that_cannot_be_used_are_told(tmp_path):
    run = make_run(tmp_path / "run")
    for arguments, message in (
        (([],), "got no run"),
        (([run, tmp_path / "x/../run"],), "twice, expected different runs"),
        (("",), "RUN is empty, expected a path"),
    ):
        with pytest.raises(UsageError, match=message):
            cmw.find_suspects(*arguments)
    for top in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match=f"top is {top!r}, expected a whole number from 1"):
            cmw.find_suspects(run, top=top)
    (run / "probabilities.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UsageError, match=r"probabilities.npy cannot be used"):
        write_audit([run], tmp_path / "out")


def test_what_is_no_run_and_no_score_is_told(tmp_path):
    for wrong in (None, 3, b"runs"):
        with pytest.raises(UsageError, match=f"^run is {wrong!r}, expected the folder of a finished"):
            cmw.find_suspects(wrong)
    with pytest.raises(
        UsageError, match=r"^run is a SimpleNamespace, expected .*: call its find_suspects\(\)$"
    ):
        cmw.find_suspects(SimpleNamespace(find_suspects=None))
    run = make_run(tmp_path / "run")
    for score, message in (
        (["label"], r"score is \['label'\], expected one of"),
        (np.str_("labels"), "score is 'labels', expected one of .*; did you mean 'label'"),
    ):
        with pytest.raises(UsageError, match=message):
            cmw.find_suspects(run, score=score)


def test_the_command_tells_mistakes_in_a_sentence(tmp_path):
    for arguments, message in (
        ([], "error: got no run, expected the folder of a finished one, or several: name it"),
        (["x"], "error: --output is missing: give a folder for the results"),
        (["x", "--output=y", "--top=0"], "error: --top is 0, expected a whole number from 1"),
    ):
        command = [sys.executable, "-m", "cmwnet_jax.audit", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1


def test_the_table_of_scores_has_a_row_a_score_and_means_over_seeds(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"set/bias/cmwnet/seed{seed}", seed)
        plain = make_run(tmp_path / f"set/bias/erm/seed{seed}", seed, weights__weights=np.ones(N))
        config = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**config, "method": "erm"}))
    found = find_runs([tmp_path])
    auc, missed = audit_table.measure(found, tmp_path / "out", folds=0)
    assert auc.columns == [("set", "bias")] and {*auc.rows} == {
        *(f"{method}, {name}" for method in ("cmwnet", "erm") for name in (*scores.SCORES, "last_loss")),
        "cmwnet, weight (across meta-classes)",
    } - {"erm, weight"}
    assert auc.cells["cmwnet, mean_loss", ("set", "bias")].values == {0: 1.0, 1: 1.0}
    assert missed.cells["erm, label", ("set", "bias")].values == {0: 0.0, 1: 0.0}
    make_run(tmp_path / "set/unknown/cmwnet/seed0", weights__true=GIVEN)
    with pytest.raises(UsageError, match="has 0 wrong labels of 12: leave it out"):
        audit_table.measure(find_runs([tmp_path]), tmp_path / "out", folds=0)


def test_a_control_of_the_same_method_has_rows_of_its_own(tmp_path):
    """Its losses tell nothing; those of the method itself tell everything."""
    for name, changes in (("cmwnet", {}), ("shuffled", {"weights__mean_losses": np.ones(N)})):
        make_run(tmp_path / f"set/bias/{name}/seed0", **changes)
    auc, _ = audit_table.measure(find_runs([tmp_path]), tmp_path / "out", folds=0)
    values = [auc.cells[f"{name}, mean_loss", ("set", "bias")].values for name in ("cmwnet", "shuffled")]
    assert values == [{0: 1.0}, {0: 0.5}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of plain training on biased digits."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    config = small_config(method="erm", num_epochs=2, warmup_epochs=0, data__bias="symmetric_20")
    train(config, folder)
    return config, folder


def test_a_run_leaves_what_its_classifier_predicts(run):
    config, folder = run
    data = load_data(config)
    recipe = build_recipe(config, data)
    with Checkpoints(folder / "checkpoints", 2) as checkpoints:
        state = checkpoints.restore(recipe.state).state
    pixels = data.splits["train"].image / np.float32(255)
    images = (pixels - pixels.mean()) / pixels.std()
    logits = np.asarray(recipe.model.apply({"params": state.params, **state.model_state}, images, train=False))
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(folder / "probabilities.npy"), expected, atol=1e-3)
    with np.load(folder / "predictions.npz") as found:
        for row, (chances, given) in enumerate(zip(expected, data.biased.given, strict=True)):
            others = np.delete(np.arange(10), given)
            assert found["other"][row] in others and found["given_probability"][row] == pytest.approx(
                chances[given], abs=1e-5
            )
            assert found["other_probability"][row] == pytest.approx(chances[others].max(), abs=1e-5)
        assert found["class_names"].tolist() == list("0123456789")
    names = json.loads((folder / "names.json").read_text())
    assert names == {"id": [example["id"] for example in map(data.source.train.__getitem__, data.biased.ids)]}


def test_folds_are_reused_for_the_same_labels_settings_and_number_alone(run, tmp_path, monkeypatch):
    """Each example is predicted by the run that lacks it; here predictions name their fold."""
    trained, data = [], load_data(run[0])
    labels = data.biased

    def made(config, place):
        data, folder = load_data(config), Path(place)
        trained.append(set(labels.ids) - set(data.biased.ids))
        save_record(folder, data.record, data.true_labels)
        (folder / "config.json").write_text(as_json(config))
        (folder / "result.json").write_text("{}")

    def predicted(place, output, of_given_labels):
        np.save(output, np.tile(np.eye(10)[int(Path(place).name.removeprefix("fold"))], (len(labels.ids), 1)))

    monkeypatch.setattr(audit_table, "train", made)
    monkeypatch.setattr(audit_table, "save_posterior", predicted)
    for folds, count in ((2, 2), (3, 5), (2, 5), (3, 5)):
        found = audit_table.cross_validated(run[1], tmp_path, folds)
        assert len(trained) == count
        by_fold = trained[:2] if folds == 2 else trained[2:5]
        assert by_fold == [set(labels.ids[found[:, fold] == 1]) for fold in range(folds)]
    for name, value in (("optimizer.learning_rate", 0.5), ("seed", 3)):
        other = run[0].copy_and_resolve_references()
        other.update_from_flattened_dict({name: value})
        made(other, tmp_path / name)
        said = f"fold0 is a fold with {name} .*, expected {value} .*: remove {tmp_path}/2_folds, or take"
        with pytest.raises(UsageError, match=said):
            audit_table.cross_validated(tmp_path / name, tmp_path, 2)
    changed = dataclasses.replace(labels, given=(labels.given + 1) % 10)
    save_record(tmp_path / "other", dataclasses.replace(data.record, labels=changed), data.true_labels)
    other = run[0].copy_and_resolve_references()
    other.data.record = str(tmp_path / "other")
    made(other, tmp_path / "of_others")
    with pytest.raises(UsageError, match=f"fold0 is a fold without the labels .*: remove {tmp_path}/2_folds"):
        audit_table.cross_validated(tmp_path / "of_others", tmp_path, 2)


def test_its_audit_shows_the_images_and_knows_the_wrong_labels(run, tmp_path):
    summary = write_audit([run[1]], tmp_path, top=40)
    assert summary["known_wrong"] > 0 and 0.5 < summary["auc"] < 1
    page = outline(tmp_path / "gallery.html")
    assert page.pictures == 40
    with Image.open(tmp_path / "suspects.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 600
    top = cmw.find_suspects(run[1], top=1)
    picture = re.search(r'base64,([^"]+)"><figcaption>#1 ', (tmp_path / "gallery.html").read_text())[1]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as shown:
        source = load_data(run[0]).source.train
        expected = next(source[row] for row in range(len(source)) if source[row]["id"] == top["id"][0])
        np.testing.assert_array_equal(np.asarray(shown), expected["image"][..., 0])


def test_names_are_those_of_the_rows_in_memory(monkeypatch):
    """Tfds's own sets are shuffled on disk, and in the order of their ids in memory."""
    shuffled = SimpleNamespace(name="cifar10")
    names = {"id": ["train_2", "train_0", "train_1"], "path": ["c", "a", "b"]}
    monkeypatch.setattr(example_names, "read_names", lambda source, split: names)
    assert example_names.names_in_memory(shuffled, "train") == {
        "id": ["train_0", "train_1", "train_2"],
        "path": ["a", "b", "c"],
    }
    assert example_names.names_in_memory(SimpleNamespace(name="digits"), "train") == names
    assert example_names.rows_of(shuffled, "train", ["train_1", "train_2"]) == [2, 0]
    with pytest.raises(UsageError, match="has no example 'train_7' in here, expected the data that"):
        example_names.rows_of(SimpleNamespace(name="x", folder="here"), "train", ["train_7"])


def test_pseudo_labels_are_compared_with_the_given_labels(monkeypatch):
    monkeypatch.setattr(corrections, "_PART", 4)
    rows = np.random.default_rng(0).dirichlet(np.ones(4), 10).astype(np.float32)
    rows[3] = 0
    given = np.arange(10) % 4
    data = SimpleNamespace(biased=SimpleNamespace(given=given))
    found = corrections.pseudo_label_arrays(data, rows)
    for i, (chances, label) in enumerate(zip(rows, given, strict=True)):
        others = np.where(np.arange(4) == label, -1, chances)
        assert found["given_probability"][i] == chances[label] and found["other"][i] == np.argmax(others)
        assert found["other_probability"][i] == max(others)
