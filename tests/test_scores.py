"""Numbers over a split, against values by hand, against scikit-learn and against second formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import log_softmax, softmax
from sklearn import metrics

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.methods.measure import Measured, measure_classifier
from cmwnet_jax.train import scores
from cmwnet_jax.train.evaluate import evaluation_arrays, split_metrics


class Identity(nn.Module):
    """A classifier whose images are its logits."""

    @nn.compact
    def __call__(self, images, train):
        del train
        return images


def measured(logits, labels):
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    return Measured(*map(np.asarray, measure_classifier(Identity())({}, batch)))


@pytest.fixture
def random():
    """(logits [N, C], labels [N]) of a classifier that is right now and then; class 7 is never seen."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 500)
    labels[labels == 7] = 3
    logits = rng.normal(size=(500, 12)).astype(np.float32)
    logits[np.arange(500), labels] += 1
    return logits, labels.astype(np.int32)


def test_measures_are_those_of_numpy(random):
    logits, labels = random
    out = measured(logits, labels)
    np.testing.assert_allclose(out.losses, -log_softmax(logits, axis=1)[np.arange(500), labels], rtol=1e-5)
    np.testing.assert_array_equal(out.predictions, logits.argmax(axis=1))
    np.testing.assert_allclose(out.confidence, softmax(logits, axis=1).max(axis=1), rtol=1e-5)
    order = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(out.ranks, np.argmax(order == labels[:, None], axis=1))
    assert [values.dtype for values in out] == [np.float32, np.int32, np.float32, np.int32, np.float32]


def test_ranks_break_ties_as_the_prediction_does_and_put_nan_last():
    out = measured(np.array([[1, 2, 2, 0]] * 4 + [[np.nan] * 4], np.float32), np.array([0, 1, 2, 3, 0]))
    np.testing.assert_array_equal(out.ranks, [2, 0, 1, 3, 4])
    np.testing.assert_array_equal(out.ranks[:4] == 0, out.predictions[:4] == [0, 1, 2, 3])


def test_confusion_by_hand():
    confusion = scores.confusion_matrix(np.array([0, 0, 0, 2, 2]), np.array([0, 1, 0, 2, 0]), 3)
    np.testing.assert_array_equal(confusion, [[2, 1, 0], [0, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(scores.class_accuracy_percent(confusion), [200 / 3, np.nan, 50])


def test_scores_are_scikit_learns(random):
    logits, labels = random
    out = measured(logits, labels)
    confusion = scores.confusion_matrix(labels, out.predictions, 12)
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(labels, out.predictions, labels=range(12))
    )
    recall = metrics.recall_score(labels, out.predictions, labels=range(12), average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.class_accuracy_percent(confusion), 100 * recall)
    for k in (1, 5):
        expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(12))
        assert scores.top_k_percent(out.ranks, k) == pytest.approx(100 * expected)


def test_shot_groups_at_their_edges():
    groups = scores.shot_groups(np.array([0, 19, 20, 100, 101]))
    np.testing.assert_array_equal(groups["few_shot"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(groups["medium_shot"], [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(groups["many_shot"], [0, 0, 0, 0, 1])


def test_a_groups_classes_count_alike_and_an_empty_group_is_none():
    accuracy = np.array([100.0, 50.0, np.nan, 0.0])
    assert scores.group_accuracy_percent(accuracy, np.array([True, True, True, False])) == 75
    assert scores.group_accuracy_percent(accuracy, np.array([False, False, True, False])) is None
    assert scores.group_accuracy_percent(accuracy, np.zeros(4, bool)) is None


def test_calibration_by_hand():
    # 0.9 and 0.9 share a bin of accuracy 1/2: 2/3 * 0.4; 0.3 is alone in one of accuracy 1: 1/3 * 0.7.
    confidence, right = np.array([0.9, 0.9, 0.3]), np.array([True, False, True])
    assert scores.expected_calibration_error(confidence, right) == pytest.approx(0.5)
    assert scores.expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0
    # Bins are open below and closed above: 0.2 and 0.4 are in different ones of five, 0.21 is with 0.4.
    edges, right = np.array([0.2, 0.21, 0.4]), np.array([True, False, False])
    assert scores.expected_calibration_error(edges, right, num_bins=5) == pytest.approx((0.8 + 0.61) / 3)


def test_calibration_is_the_mean_gap_of_its_bins(random):
    logits, labels = random
    out = measured(2 * logits, labels)
    right, expected = out.predictions == labels, 0.0
    for low in np.arange(15) / 15:
        inside = (out.confidence > low) & (out.confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - out.confidence[inside].mean(dtype=float))
    assert scores.expected_calibration_error(out.confidence, right) == pytest.approx(expected, rel=1e-6)


def test_an_epochs_numbers(random):
    logits, labels = random
    out = measured(logits, labels)
    counts = np.array([200] * 4 + [50] * 8)
    meta_classes = MetaClasses(np.array([50.0, 200.0, 200.0]), np.array([1] * 4 + [0] * 8))
    numbers = split_metrics(out, labels, counts, meta_classes)
    by_class = np.array([np.mean(out.predictions[labels == c] == c) if c != 7 else np.nan for c in range(12)])
    assert numbers["test_accuracy_percent"] == pytest.approx(100 * np.mean(out.predictions == labels))
    assert numbers["test_many_shot_accuracy_percent"] == pytest.approx(100 * by_class[:4].mean())
    assert numbers["test_medium_shot_accuracy_percent"] == pytest.approx(100 * np.nanmean(by_class[4:]))
    assert numbers["test_few_shot_accuracy_percent"] is None
    small, large, empty = numbers["test_meta_class_accuracy_percent"]
    assert (small, large) == pytest.approx((100 * np.nanmean(by_class[4:]), 100 * by_class[:4].mean()))
    assert empty is None
    assert numbers["test_accuracy_percent"] < numbers["test_top5_percent"] < 100


def test_top_5_is_left_out_where_there_are_ten_classes():
    logits, labels = np.eye(10, dtype=np.float32), np.arange(10)
    numbers = split_metrics(measured(logits, labels), labels, np.full(10, 5), MetaClasses.fit([5] * 10, 1))
    assert numbers["test_accuracy_percent"] == 100
    assert "test_top5_percent" not in numbers


def test_arrays_of_an_evaluation(random):
    logits, labels = random
    arrays = evaluation_arrays(measured(logits, labels), labels, [str(c) for c in range(12)])
    assert arrays["confusion"].sum() == len(arrays["labels"]) == len(arrays["ranks"]) == 500
