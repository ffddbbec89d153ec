"""Every bias through one battery; composition, names, labels."""

import re

import numpy as np
import pytest
from bias_laws import HUMAN, INPUTS, C, apply, clean

from cmwnet_jax.data import bias
from cmwnet_jax.data.bias import similar
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.errors import UsageError

NAMES = (
    "none",
    "long_tail_100",
    "subset_1000",
    "balanced_subset_1000",
    "symmetric_40",
    "uniform_40",
    "asymmetric_40",
    "asymmetric_dividemix_40",
    "asymmetric_plc_40",
    "pmd1_35",
    "pmd2_70",
    "pmd3_35",
    "pmd1_plc_35",
    "pmd2_plc_70",
    "pmd3_plc_35",
    "open_set_40",
    "human_worse",
    "partial_30",
    "partial_pair_30",
    "confidences",
    "long_tail_10+asymmetric_40",
    "pmd1_35+uniform_30",
    "long_tail_10+partial_10",
    "long_tail_10+confidences",
    "long_tail_10+open_set_40+symmetric_20",
    "subset_1000+pmd1_35+asymmetric_30",
)


class TestEveryBias:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_pure(self, name):
        labels = clean()
        arrays = [labels.ids, labels.given, labels.true, INPUTS["posterior"], *HUMAN.values()]
        before = [array.copy() for array in arrays]
        for array in arrays:
            array.flags.writeable = False
        apply(name, labels)
        for array, copy in zip(arrays, before, strict=True):
            array.flags.writeable = True
            np.testing.assert_array_equal(array, copy)

    @pytest.mark.parametrize("name", NAMES)
    def test_is_a_function_of_the_seed(self, name):
        first, again, other = (apply(name, clean(), seed) for seed in (3, 3, 4))
        for field in ("ids", "given", "true", "foreign"):
            np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
        if name not in ("none", "human_worse", "confidences"):
            fields = ("ids", "given", "foreign")
            assert not all(np.array_equal(getattr(first, field), getattr(other, field)) for field in fields)

    @pytest.mark.parametrize("name", NAMES)
    def test_gives_sound_labels(self, name):
        start, labels = clean(), apply(name, clean())
        assert np.all(np.diff(labels.ids) > 0) and labels.ids.dtype == np.int64
        assert labels.given.dtype == labels.true.dtype == np.int32
        assert labels.given.shape == labels.true.shape == labels.ids.shape
        assert labels.given.min() >= 0 and labels.given.max() < C
        own = ~labels.is_foreign
        np.testing.assert_array_equal(labels.true[own], start.true[labels.ids[own]])

    @pytest.mark.parametrize("name", NAMES)
    def test_reports_the_truth(self, name):
        labels = apply(name, clean())
        assert labels.wrong_rate == np.mean(labels.given != labels.true)
        assert labels.class_counts.tolist() == [np.sum(labels.given == c) for c in range(C)]
        matrix = labels.transition_matrix
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        own = ~labels.is_foreign
        right = np.sum(np.bincount(labels.true[own], minlength=C) * np.diag(matrix))
        assert right == pytest.approx(np.sum(~labels.is_wrong))

    @pytest.mark.parametrize("name", NAMES)
    def test_says_what_it_needs(self, name):
        needed = bias.needs(name)
        inputs = {argument: value for argument, value in INPUTS.items() if argument in needed}
        bias.apply(name, clean(), "cifar10", 0, **inputs)
        for missing in needed:
            rest = {argument: value for argument, value in inputs.items() if argument != missing}
            with pytest.raises(UsageError, match=f"needs {missing}"):
                bias.apply(name, clean(), "cifar10", 0, **rest)

    @pytest.mark.parametrize("name", ["symmetric", "uniform", "asymmetric", "asymmetric_plc", "open_set"])
    @pytest.mark.parametrize("percent", ["-1", "101"])
    def test_refuses_rates_outside_of_0_to_100(self, name, percent):
        with pytest.raises(UsageError, match=f"which is {percent} per cent, expected 0 to 100"):
            apply(f"{name}_{percent}", clean())

    # PLC's code relabels what the posterior has wrong, at any rate; a long tail has no rate 0.
    @pytest.mark.parametrize(
        "kind", ["symmetric", "uniform", "asymmetric", "asymmetric_plc", "pmd1", "pmd2", "pmd3", "open_set"]
    )
    def test_at_rate_0_changes_nothing(self, kind):
        assert apply(f"{kind}_0", clean()).wrong_rate == 0


class TestComposition:
    def test_applies_from_left_to_right(self):
        labels = apply("long_tail_10+asymmetric_40", clean())
        first, second = (generator(0, Purpose.BIAS, place) for place in (0, 1))
        thinned = bias.long_tail(clean(), 10, first)
        by_hand = bias.asymmetric_noise(thinned, 0.4, similar.ASYMMETRIC_FLIPS["cifar10"], second)
        np.testing.assert_array_equal(labels.ids, by_hand.ids)
        np.testing.assert_array_equal(labels.given, by_hand.given)

    def test_parts_have_streams_of_their_own(self):
        once, twice = apply("uniform_30", clean()), apply("uniform_30+uniform_30", clean())
        changed = np.mean(once.given != twice.given)
        assert changed == pytest.approx(0.3, abs=0.03)

    def test_inputs_follow_ids_after_thinning(self):
        labels = apply("long_tail_10+human_worse", clean())
        np.testing.assert_array_equal(labels.given, HUMAN["worse"][labels.ids])


class TestNames:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("symetric_40", "did you mean 'symmetric'"),
            ("symmetric40", "did you mean 'symmetric'"),
            ("pmd4_35", "did you mean 'pmd"),
            ("long_tail_1.2.3", "did you mean 'long_tail'"),
            ("long_tail_10+", "bias is '', expected KIND_NUMBER"),
            ("symmetric", "expected a number at its end"),
            ("human_worst", "did you mean 'worse'"),
        ],
    )
    def test_refuses_unknown_ones_and_names_the_nearest(self, name, message):
        with pytest.raises(UsageError, match=re.escape(message)):
            apply(name, clean())


class TestLabels:
    @pytest.mark.parametrize("labels", [[0, 10], [-1, 0]])
    def test_refuses_labels_outside_of_the_classes(self, labels):
        with pytest.raises(UsageError, match="1 of 2 are outside the classes 0 to 9"):
            bias.BiasedLabels.clean(labels, C)

    @pytest.mark.parametrize("labels", [[0.5], [[0, 1]]])
    def test_refuses_what_is_no_label(self, labels):
        with pytest.raises(UsageError, match="one whole number an example"):
            bias.BiasedLabels.clean(labels, C)

    def test_unknown_truth_has_no_rate(self):
        labels = bias.BiasedLabels.clean([0, 1, 2], 3, truth_known=False)
        assert np.isnan(labels.wrong_rate)
        assert np.isnan(bias.symmetric_noise(labels, 0.5, 0).wrong_rate)

    def test_a_class_without_examples_has_no_transitions(self):
        labels = bias.BiasedLabels.clean([0, 0, 2], 3)
        assert labels.transition_matrix.sum(axis=1).tolist() == [1, 0, 1]
        assert labels.wrong_rate == 0 and bias.BiasedLabels.clean(np.zeros(0, int), 3).wrong_rate == 0


class TestHuman:
    def test_refuses_another_order(self):
        with pytest.raises(UsageError, match="bring both into the same order"):
            bias.human_labels(clean(), HUMAN["worse"], clean=np.roll(clean().true, 1))

    def test_refuses_too_few_and_foreign_labels(self):
        with pytest.raises(UsageError, match="4999 rows"):
            bias.human_labels(clean(), HUMAN["worse"][:-1])
        with pytest.raises(UsageError, match="outside the classes"):
            bias.human_labels(clean(), HUMAN["worse"] + 1)


class TestFewLabels:
    def test_as_many_of_each_class_keep_their_labels_and_all_their_images(self):
        labels, other = (apply("long_tail_10+labels_40", clean(), seed) for seed in (0, 1))
        whole = apply("long_tail_10", clean())
        np.testing.assert_array_equal(labels.ids, whole.ids)
        kept = labels.is_labelled
        np.testing.assert_array_equal(labels.given, np.where(kept, whole.given, -1))
        assert labels.class_counts.tolist() == [4] * C
        assert not np.array_equal(kept, other.is_labelled)
        assert labels.given.dtype == np.int32

    def test_only_labels_can_be_wrong(self):
        labels = apply("symmetric_40+labels_100", clean())
        kept = labels.is_labelled
        assert labels.is_wrong.sum() == np.sum(labels.given[kept] != labels.true[kept]) > 0
        assert labels.wrong_rate == labels.is_wrong.sum() / 100
        assert labels.transition_matrix.sum() == pytest.approx(np.sum(np.bincount(labels.true[kept]) > 0))

    def test_the_subset_of_the_same_seed_is_the_labelled_examples(self):
        labels, subset = (apply(f"{kind}_500", clean(), 3) for kind in ("labels", "balanced_subset"))
        np.testing.assert_array_equal(subset.ids, labels.ids[labels.is_labelled])

    def test_a_class_without_examples_is_named(self):
        labels = bias.BiasedLabels.clean([0, 0, 2], 3)
        with pytest.raises(UsageError, match="class 1 has no examples: every class needs labels"):
            bias.few_labels(labels, 3, 0)
