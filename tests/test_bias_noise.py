"""Imbalance and label noise by class: exact counts or laws, against the published rates."""

import numpy as np
import pytest
from bias_laws import ALPHA, POWER, C, apply, clean, law_p

from cmwnet_jax.data import bias
from cmwnet_jax.data.bias import similar
from cmwnet_jax.errors import UsageError


def off_diagonal(labels: bias.BiasedLabels) -> np.ndarray:
    """[C * (C - 1)] counts of each kind of wrong label."""
    counts = np.zeros((labels.num_classes, labels.num_classes))
    np.add.at(counts, (labels.true, labels.given), 1)
    return counts[~np.eye(labels.num_classes, dtype=bool)]


class TestLongTail:
    @pytest.mark.parametrize("factor", [1, 10, 20, 50, 100, 200])
    def test_cifar10_class_sizes_are_exact(self, factor):
        labels = bias.long_tail(clean(5000), factor, 0)
        expected = [int(5000 * factor ** (-c / 9) + 1e-9) for c in range(C)]
        assert labels.class_counts.tolist() == expected
        assert expected[-1] == 5000 // factor  # 25 at factor 200, 50 at 100, 500 at 10 (Q28)

    def test_every_example_is_as_likely_to_stay(self):
        start = clean(20, 2)
        stayed = np.zeros(len(start.ids))
        for seed in range(300):
            stayed[bias.long_tail(start, 4, seed).ids] += 1
        rare = stayed[start.true == 1]
        assert np.all(stayed[start.true == 0] == 300) and rare.sum() == 5 * 300
        assert law_p(rare, np.ones(20)) > ALPHA
        assert law_p(np.r_[np.full(5, 300.0), np.zeros(15)], np.ones(20)) < POWER

    @pytest.mark.parametrize("factor", [0.5, 0, -3, float("nan"), float("inf")])
    def test_refuses_factors_below_1(self, factor):
        with pytest.raises(UsageError, match="expected at least 1"):
            bias.long_tail(clean(), factor, 0)

    def test_refuses_to_empty_a_class(self):
        with pytest.raises(UsageError, match="leaves class 8 none of its 10"):
            bias.long_tail(clean(10), 14, 0)


class TestSubset:
    def test_every_example_is_as_likely_to_stay(self):
        start = clean(10)
        stayed = np.zeros(len(start.ids))
        for seed in range(300):
            kept = bias.subset(start, 25, seed).ids
            assert len(np.unique(kept)) == 25
            stayed[kept] += 1
        assert law_p(stayed, np.ones(10 * C)) > ALPHA
        assert law_p(np.r_[np.full(25, 300.0), np.zeros(75)], np.ones(10 * C)) < POWER

    @pytest.mark.parametrize("count", [0, 101, -1, 2.5, float("nan"), float("inf")])
    def test_refuses_other_counts(self, count):
        with pytest.raises(UsageError, match="expected a whole number from 1 to 100"):
            bias.subset(clean(10), count, 0)


class TestSymmetricAndUniform:
    def test_rate_40_with_own_class_allowed_is_36_percent_wrong(self):
        labels = bias.symmetric_noise(clean(5000), 0.4, 0)
        assert labels.wrong_rate == pytest.approx(0.36, abs=0.004)

    @pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
    def test_laws_differ_in_the_own_class_only(self, rate):
        start = clean(5000)
        redrawn = int(rate * len(start.ids))
        symmetric, uniform = bias.symmetric_noise(start, rate, 1), bias.uniform_noise(start, rate, 1)
        wrong = symmetric.is_wrong.sum()
        assert wrong <= redrawn
        assert law_p([wrong, redrawn - wrong], [1 - 1 / C, 1 / C]) > ALPHA
        wrong = uniform.is_wrong.sum()
        assert law_p([wrong, len(start.ids) - wrong], [rate, 1 - rate]) > ALPHA
        wrong = symmetric.is_wrong.sum()  # not uniform's law
        assert law_p([wrong, len(start.ids) - wrong], [rate, 1 - rate]) < POWER
        for labels in (symmetric, uniform):
            assert law_p(off_diagonal(labels), np.ones(C * (C - 1))) > ALPHA

    def test_a_wrong_law_is_seen(self):
        flips = dict(zip(range(C), [*range(1, C), 0], strict=True))
        labels = bias.asymmetric_noise(bias.symmetric_noise(clean(5000), 0.4, 0), 0.02, flips, 0)
        assert law_p(off_diagonal(labels), np.ones(C * (C - 1))) < POWER

    def test_uniform_needs_another_class(self):
        with pytest.raises(UsageError, match="at least 2"):
            bias.uniform_noise(bias.BiasedLabels.clean([0, 0], 1), 0.5, 0)


class TestTransition:
    def test_follows_the_matrix(self):
        matrix = np.random.default_rng(0).dirichlet(np.ones(C), size=C)
        matrix[3] = np.eye(C)[9]
        labels = bias.transition_noise(clean(5000), matrix, 2)
        for c in set(range(C)) - {3}:
            observed = np.bincount(labels.given[labels.true == c], minlength=C)
            assert law_p(observed, matrix[c]) > ALPHA
            assert law_p(observed, np.ones(C)) < POWER
        assert np.all(labels.given[labels.true == 3] == 9)

    @pytest.mark.parametrize(
        "matrix", [np.eye(9), np.eye(C) * 1.1, -np.eye(C), np.full((C, C), np.nan), np.eye(C)[0]]
    )
    def test_refuses_what_is_no_transition_matrix(self, matrix):
        with pytest.raises(UsageError, match="each row summing to one"):
            bias.transition_noise(clean(), matrix, 0)


class TestAsymmetric:
    @pytest.mark.parametrize("rate", [0.2, 0.4, 0.6, 0.8])
    def test_published_cifar10_map_has_5_to_5_classes(self, rate):
        labels = apply(f"asymmetric_{100 * rate:g}", clean(5000))
        assert labels.wrong_rate == pytest.approx(0.4 * rate, abs=1e-12)
        less, same, more = round((1 - rate) * 5000), 5000, round((1 + rate) * 5000)
        expected = [more, more, less, less, less, more, same, more, same, less]
        assert labels.class_counts.tolist() == expected  # Q22
        # The classes that shrink stay pure.
        assert np.all(~labels.is_wrong[np.isin(labels.given, (2, 3, 4, 9))])

    def test_dividemix_map_flips_cats_and_dogs_both_ways(self):
        labels = apply("asymmetric_dividemix_40", clean(5000))
        assert labels.wrong_rate == pytest.approx(0.2)
        matrix = labels.transition_matrix
        assert matrix[3, 5] == matrix[5, 3] == pytest.approx(0.4)
        assert apply("asymmetric_40", clean(5000)).transition_matrix[5, 3] == 0

    def test_plc_flips_are_drawn_one_by_one(self):
        labels = apply("asymmetric_plc_30", clean(5000))
        assert set(labels.true[labels.is_wrong].tolist()) == {2, 3, 4, 5, 9}
        flipped = labels.is_wrong.sum()
        assert law_p([flipped, 25000 - flipped], [0.3, 0.7]) > ALPHA
        assert law_p([flipped, 25000 - flipped], [0.33, 0.67]) < POWER

    @pytest.mark.parametrize("name", ["asymmetric_40", "asymmetric_plc_40"])
    def test_cifar100_flips_stay_in_groups_of_five(self, name):
        group = similar.cifar100_coarse_of_fine() if name == "asymmetric_40" else np.arange(100) // 5
        labels = apply(name, clean(50, 100), dataset="cifar100")
        np.testing.assert_array_equal(group[labels.given], group[labels.true])
        assert np.all((labels.transition_matrix > 0).sum(axis=1) == 2)
        if name == "asymmetric_40":
            assert labels.wrong_rate == pytest.approx(0.4) and np.all(labels.class_counts == 50)

    def test_cifar100_superclasses(self):
        coarse = similar.cifar100_coarse_of_fine()
        assert coarse.shape == (100,) and np.bincount(coarse).tolist() == [5] * 20
        # Fine labels of a few superclasses, from the data set's own label list.
        for superclass, fine in {
            "aquatic_mammals": 0,
            "fish": 1,
            "people": 14,
            "trees": 17,
            "vehicles_2": 19,
        }.items():
            assert sorted(similar.CIFAR100_SUPERCLASSES)[fine] == superclass
        assert np.flatnonzero(coarse == 14).tolist() == [2, 11, 35, 46, 98]  # baby, boy, girl, man, woman
        assert np.flatnonzero(coarse == 17).tolist() == [47, 52, 56, 59, 96]  # maple, oak, palm, pine, willow
        assert np.flatnonzero(coarse == 4).tolist() == [0, 51, 53, 57, 83]  # apple to sweet pepper

    @pytest.mark.parametrize("dataset", similar.ASYMMETRIC_FLIPS)
    def test_maps_flip_each_class_to_another_one(self, dataset):
        flips = similar.ASYMMETRIC_FLIPS[dataset]
        assert all(source != target for source, target in flips.items())
        num_classes = 100 if dataset == "cifar100" else 10
        assert apply("asymmetric_50", clean(20, num_classes), dataset=dataset).wrong_rate > 0

    @pytest.mark.parametrize("name", ["asymmetric_40", "asymmetric_dividemix_40", "asymmetric_plc_40"])
    def test_refuses_data_sets_without_a_map(self, name):
        with pytest.raises(UsageError, match=f"bias is {name[:-3]}, but 'kmnist' has no map"):
            apply(name, clean(), dataset="kmnist")

    @pytest.mark.parametrize("flips", [{0: 10}, {-1: 0}])
    def test_refuses_flips_to_nowhere(self, flips):
        with pytest.raises(UsageError, match="outside the classes"):
            bias.asymmetric_noise(clean(), 0.4, flips, 0)
        with pytest.raises(UsageError, match="outside the classes"):
            bias.flip_matrix(0.4, flips, C)
