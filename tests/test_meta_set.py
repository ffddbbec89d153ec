"""Meta sets: who is in them, under which labels, and how many of these are right."""

import jax.numpy as jnp
import numpy as np
import pytest
from bias_laws import ALPHA, POWER, C, clean, law_p

from cmwnet_jax.data import bias, meta_set
from cmwnet_jax.errors import UsageError


class TestLowestLoss:
    def test_takes_the_lowest_of_each_class(self):
        labels = np.array([0, 1, 0, 1, 0, 2])
        losses = np.array([0.3, 0.1, 0.2, 5.0, 0.1, 9.0])
        assert meta_set.lowest_loss(losses, labels, 3, 2).tolist() == [1, 2, 3, 4, 5]
        assert meta_set.lowest_loss(losses, labels, 3, 1).tolist() == [1, 4, 5]
        assert meta_set.lowest_loss(losses, labels, 4, 100).tolist() == list(range(6))

    def test_against_a_loop(self):
        labels = clean().given
        losses = np.random.default_rng(0).normal(size=len(labels))
        rows = meta_set.lowest_loss(losses, labels, C, 10)
        assert len(rows) == 100 and np.all(np.diff(rows) > 0)
        for c in range(C):
            members = np.flatnonzero(labels == c)
            threshold = np.sort(losses[members])[9]
            assert set(rows[labels[rows] == c]) == set(members[losses[members] <= threshold])

    def test_nan_is_the_highest_loss_and_ties_go_by_row(self):
        labels = np.zeros(4, int)
        assert meta_set.lowest_loss(np.array([np.nan, 1, np.inf, 1]), labels, 1, 3).tolist() == [1, 2, 3]
        assert meta_set.lowest_loss(np.ones(4), labels, 1, 2).tolist() == [0, 1]
        halves = jnp.array([3, np.nan, 0.5, 0.2], jnp.bfloat16)
        assert meta_set.lowest_loss(halves, labels, 1, 2).tolist() == [2, 3]

    def test_refuses_bad_sizes(self):
        with pytest.raises(UsageError, match="expected one a label"):
            meta_set.lowest_loss(np.ones(3), np.zeros(4, int), 1, 1)
        with pytest.raises(UsageError, match="expected at least 1"):
            meta_set.lowest_loss(np.ones(4), np.zeros(4, int), 1, 0)


class TestBalanced:
    @pytest.mark.parametrize(("factor", "size"), [(200, 25), (100, 50), (10, 500), (1, 5000)])
    def test_has_as_many_of_each_class_as_the_smallest_has(self, factor, size):
        labels = bias.long_tail(clean(5000), factor, 0).given  # sizes of Q28
        rows = meta_set.balanced(labels, C, 10**6, 0)
        assert np.bincount(labels[rows]).tolist() == [size] * C
        assert np.all(np.diff(rows) > 0)

    def test_cap(self):
        rows = meta_set.balanced(clean().given, C, 7, 0)
        assert np.bincount(clean().given[rows]).tolist() == [7] * C

    def test_each_epoch_draws_afresh(self):
        labels = clean().given
        first, again, next_epoch = (meta_set.balanced(labels, C, 7, [0, epoch]) for epoch in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, next_epoch)

    def test_every_example_is_as_likely(self):
        labels = np.repeat([0, 1], [20, 5])
        drawn = np.zeros(25)
        for seed in range(400):
            drawn[meta_set.balanced(labels, 2, 10, seed)] += 1
        assert np.all(drawn[20:] == 400)
        assert law_p(drawn[:20], np.ones(20)) > ALPHA
        assert law_p(drawn, np.ones(25)) < POWER

    def test_passes_over_empty_classes(self):
        assert meta_set.balanced(np.array([0, 0, 2]), 4, 5, 0).shape == (2,)

    def test_refuses_bad_sizes(self):
        with pytest.raises(UsageError, match="no training examples"):
            meta_set.balanced(np.zeros(0, int), 3, 1, 0)
        with pytest.raises(UsageError, match="expected at least 1"):
            meta_set.balanced(np.zeros(3, int), 3, 0, 0)


class TestHoldOut:
    def test_splits_the_ids(self):
        ids, left = meta_set.hold_out(clean(), 10, 0)
        assert np.bincount(clean().true[ids]).tolist() == [10] * C
        assert np.all(np.diff(ids) > 0)
        np.testing.assert_array_equal(np.sort(np.r_[ids, left.ids]), clean().ids)
        np.testing.assert_array_equal(left.true, clean().true[left.ids])

    def test_gives_ids_of_labels_that_are_thinned(self):
        thin = bias.long_tail(clean(), 10, 0)
        ids, left = meta_set.hold_out(thin, 10, 0)
        assert set(ids) | set(left.ids) == set(thin.ids)
        assert np.bincount(clean().true[ids]).tolist() == [10] * C

    def test_bias_after_it_never_touches_it(self):
        ids, left = meta_set.hold_out(clean(), 10, 0)
        assert not np.isin(ids, bias.apply("long_tail_10+symmetric_40", left, "cifar10", 0).ids).any()

    @pytest.mark.parametrize("per_class", [500, 501, 10**9])
    def test_refuses_to_empty_a_class(self, per_class):
        with pytest.raises(UsageError, match="expected fewer than the 500 examples of the smallest class"):
            meta_set.hold_out(clean(), per_class, 0)

    def test_refuses_zero_and_wrong_labels(self):
        with pytest.raises(UsageError, match="expected at least 1"):
            meta_set.hold_out(clean(), 0, 0)
        with pytest.raises(UsageError, match="hold the meta set out before the bias"):
            meta_set.hold_out(bias.symmetric_noise(clean(), 0.4, 0), 10, 0)


class TestLabels:
    def test_rightness_counts_the_truth(self):
        labels = bias.asymmetric_noise(clean(), 0.4, {0: 1}, 0)
        rows = meta_set.balanced(labels.given, C, 50, 0)
        rightness = meta_set.rightness(labels, meta_set.with_labels(rows, labels.given))
        assert rightness == (np.sum(~labels.is_wrong[rows]), len(rows))
        assert rightness.percent == 100 * np.mean(~labels.is_wrong[rows])
        assert 0 < rightness.right < rightness.known == 500

    def test_pseudo_labels_are_judged_by_themselves(self):
        labels = bias.symmetric_noise(clean(), 1, 0)
        rows = np.arange(0, 5000, 50)
        soft = 0.3 * np.eye(C)[(labels.true + 1) % C] + 0.7 * np.eye(C)[labels.true]
        meta = meta_set.with_labels(rows, soft)
        assert meta.labels.shape == (100, C)
        assert meta_set.rightness(labels, meta).percent == 100
        assert meta_set.rightness(labels, meta_set.with_labels(rows, soft.argmin(axis=1))).percent < 100

    def test_foreign_images_are_never_right(self):
        labels = bias.open_set(clean(), 1, bias.ForeignSet("cifar100", 5000), 0)
        rows = np.arange(100)
        assert meta_set.rightness(labels, meta_set.with_labels(rows, labels.given)) == (0, 100)

    def test_unknown_truth_is_not_guessed(self):
        labels = bias.BiasedLabels.clean([0, 1], 2, truth_known=False)
        rightness = meta_set.rightness(labels, meta_set.with_labels(np.arange(2), labels.given))
        assert rightness.known == 0 and np.isnan(rightness.percent)

    @pytest.mark.parametrize("table", [np.zeros(4, int), np.zeros((4, 2)), np.zeros((5, 2, 2)), np.zeros(())])
    def test_refuses_tables_of_another_size(self, table):
        with pytest.raises(UsageError, match="a row for each of the training examples"):
            meta_set.with_labels(np.array([0, 4]), table)
