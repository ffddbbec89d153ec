"""What TensorBoard is given."""

from pathlib import Path

import numpy as np
import pytest
from events import read_events
from tensorboardX import record_writer
from test_train import small_config

from cmwnet_jax import drawing
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.watch import Board, is_due, pictures, scalars


def test_scalars_are_grouped_lists_spread_out_and_what_is_unknown_left_out():
    metrics = {
        "epoch": 3,
        "loss": 1.5,
        "meta_loss": float("nan"),
        "test_few_shot_accuracy_percent": None,
        "weight_mean_by_meta_class": [0.25, float("nan"), 0.75],
        "meta_set_size": 100,
    }
    assert scalars(metrics) == {
        "train/loss": 1.5,
        "weights/weight_mean_by_meta_class/0": 0.25,
        "weights/weight_mean_by_meta_class/2": 0.75,
        "meta/meta_set_size": 100.0,
    }


def test_what_is_due_at_which_epochs():
    assert [epoch for epoch in range(7) if is_due(epoch, 3)] == [2, 5]
    assert not any(is_due(epoch, 0) for epoch in range(7))


def test_epochs_that_are_run_again_are_shown_once(tmp_path):
    for first, last, loss in ((0, 5, 1.0), (3, 4, 2.0), (3, 6, 3.0)):  # all within one second
        with Board(tmp_path, first) as board:
            for epoch in range(first, last):
                board.add_metrics({"epoch": epoch, "loss": loss})
    assert read_events(tmp_path)["train/loss"] == {0: [1], 1: [1], 2: [1], 3: [3], 4: [3], 5: [3]}


def test_what_the_last_epoch_has_not_seen_is_not_drawn():
    """Of a run of today, beside one of a version that left these rows out."""
    old = {"weights": np.array([0.1, 0.9]), "given": np.array([0, 1])}
    new = {"weights": np.array([np.nan, 0.5]), "given": np.array([2, 3]), "seen": np.array([False, True])}
    weights, given = drawing.of_seen([old, new], "weights", "given")
    np.testing.assert_array_equal(weights, [0.1, 0.9, 0.5])
    np.testing.assert_array_equal(given, [0, 1, 3])


def weights_of(wrong_count, num_meta_classes=2):
    rng = np.random.default_rng(0)
    given = rng.integers(0, 4, 200)
    true = np.where(np.arange(200) < wrong_count, (given + 1) % 4, given)
    grid = np.linspace(0, 3, 50)
    return {
        "given": given,
        "true": true,
        "weights": rng.random(200),
        "centers": np.arange(1, num_meta_classes + 1) * 10.0,
        "grid": grid,
        "functions": np.exp(-grid) * np.linspace(0.2, 1, num_meta_classes)[:, None],
    }


@pytest.mark.parametrize("num_classes", [4, 30, 60])
def test_pictures_of_any_number_of_classes(num_classes):
    confusion = np.random.default_rng(0).integers(0, 9, (num_classes, num_classes))
    confusion[1] = 0  # a class without test examples
    drawn = pictures(4, weights_of(0), confusion, [f"class {c}" for c in range(num_classes)])
    assert set(drawn) == {"weights/functions", "weights/histogram", "test/confusion"}
    for picture in drawn.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_confusion_matrix_says_its_shares():
    axes = drawing.Figure().subplots()
    drawing.draw_confusion(axes, np.array([[3, 1], [0, 2]]), ["cat", "dog"])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "100"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("wrong", "names"),
    [(50, ["right (75% of the examples)", "wrong (25% of the examples)"]), (0, ["not known to be wrong"])],
)
def test_a_histogram_claims_no_truth_that_is_not_known(wrong, names):
    axes = drawing.Figure().subplots()
    drawing.draw_weight_histogram(axes, [weights_of(wrong)])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == len(names)
    assert all(label.startswith(name) for label, name in zip(labels, names, strict=True))


def test_a_run_is_watched(tmp_path):
    train(small_config(num_epochs=5, watch__pictures_every_epochs=2), tmp_path / "run")
    events = read_events(tmp_path / "run" / "tensorboard")
    assert list(events["test/test_accuracy_percent"]) == [0, 1, 2, 3, 4]
    assert list(events["meta/meta_loss"]) == [2, 3, 4]
    assert list(events["test/confusion"]) == [1, 3, 4]
    assert list(events["weights/functions"]) == list(events["weights/histogram"]) == [3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    open_file = record_writer.open_file
    monkeypatch.setattr(record_writer, "open_file", lambda path: open_file("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        Board(tmp_path, 0)
