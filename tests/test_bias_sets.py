"""Open-set noise and partial labels: exact counts and laws."""

import numpy as np
import pytest
from bias_laws import ALPHA, POWER, C, clean, law_p
from scipy.stats import binom

from cmwnet_jax.data import bias
from cmwnet_jax.errors import UsageError

FOREIGN = bias.ForeignSet("cifar100", 3000)


class TestOpenSet:
    def test_counts_are_exact_and_foreign_images_are_wrong(self):
        labels = bias.open_set(clean(), 0.4, FOREIGN, 0)
        assert labels.is_foreign.sum() == 2000 and labels.wrong_rate == 0.4
        np.testing.assert_array_equal(labels.given, clean().given)
        assert np.all(labels.true[labels.is_foreign] == -1)
        shown = labels.foreign[labels.is_foreign]
        assert len(np.unique(shown)) == 2000 and shown.max() < 3000
        np.testing.assert_array_equal(labels.transition_matrix, np.eye(C))

    def test_no_class_and_no_image_is_preferred(self):
        labels = bias.open_set(clean(5000), 0.1, bias.ForeignSet("cifar100", 50000), 0)
        assert law_p(np.bincount(labels.given[labels.is_foreign], minlength=C), np.ones(C)) > ALPHA
        shown = labels.foreign[labels.is_foreign]
        assert law_p(np.bincount(shown // 5000, minlength=10), np.ones(10)) > ALPHA
        assert np.mean(np.diff(shown) > 0) == pytest.approx(0.5, abs=0.05)  # in no order

    def test_later_noise_cannot_make_them_right(self):
        labels = bias.symmetric_noise(bias.open_set(clean(), 0.4, FOREIGN, 0), 1, 0)
        assert np.all(labels.is_wrong[labels.is_foreign])

    def test_stays_with_its_example_when_classes_are_thinned(self):
        whole = bias.open_set(clean(), 0.4, FOREIGN, 0)
        thin = bias.long_tail(whole, 10, 0)
        np.testing.assert_array_equal(thin.foreign, whole.foreign[thin.ids])

    def test_shown_images(self):
        images = np.arange(5000, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
        foreign_images = 255 - images[:3000]
        labels = bias.long_tail(bias.open_set(clean(), 0.4, FOREIGN, 0), 10, 0)
        shown = bias.shown_images(labels, images, foreign_images)
        for row, (own, foreign) in enumerate(zip(labels.ids, labels.foreign, strict=True)):
            expected = images[own] if foreign < 0 else foreign_images[foreign]
            np.testing.assert_array_equal(shown[row], expected)
        np.testing.assert_array_equal(bias.shown_images(clean(), images), images)
        with pytest.raises(UsageError, match="expected foreign_images, the images of cifar100"):
            bias.shown_images(labels, images)
        for wrong in (foreign_images[:, :1], foreign_images.astype(np.float32)):
            with pytest.raises(UsageError, match=r"expected \(2, 2, 1\) and uint8"):
                bias.shown_images(labels, images, wrong)

    def test_refuses_too_few_images_and_a_second_time(self):
        with pytest.raises(UsageError, match="4000 images are to be replaced, but cifar100 has 3000"):
            bias.open_set(clean(), 0.8, FOREIGN, 0)
        with pytest.raises(UsageError, match="replaced already"):
            bias.open_set(bias.open_set(clean(), 0.1, FOREIGN, 0), 0.1, FOREIGN, 0)
        with pytest.raises(UsageError, match=r"in \[0, 1\]"):
            bias.open_set(clean(), 1.1, FOREIGN, 0)


def sizes(candidates: np.ndarray) -> np.ndarray:
    """[C] examples by number of wrong candidates."""
    return np.bincount(candidates.sum(axis=1) - 1, minlength=C)


class TestPartialLabels:
    @pytest.mark.parametrize("draw", [bias.binomial_candidates, bias.pair_candidates])
    def test_is_sound(self, draw):
        labels = clean()
        candidates = draw(labels, 0.3, 0)
        assert candidates.dtype == bool and candidates.shape == (5000, C)
        assert np.all(candidates[np.arange(5000), labels.true])
        np.testing.assert_array_equal(candidates, draw(labels, 0.3, 0))
        assert not np.array_equal(candidates, draw(labels, 0.3, 1))
        np.testing.assert_array_equal(labels.given, clean().given)
        for q in (-0.1, 1.1):
            with pytest.raises(UsageError, match=r"in \[0, 1\]"):
                draw(labels, q, 0)
        with pytest.raises(UsageError, match="at least 2"):
            draw(bias.BiasedLabels.clean([0], 1), 0.5, 0)

    @pytest.mark.parametrize("q", [0.1, 0.3, 0.5])
    def test_binomial_law(self, q):
        labels = clean(2000)
        candidates = bias.binomial_candidates(labels, q, 3)
        law = binom.pmf(np.arange(C), C - 1, q)
        forced = np.r_[0, law[0] + law[1], law[2:]]
        assert sizes(candidates)[0] == 0
        seen = np.r_[sizes(candidates)[1:5], sizes(candidates)[5:].sum()]

        def p(distribution):
            return law_p(seen, np.r_[distribution[1:5], distribution[5:].sum()])

        assert p(forced) > ALPHA
        other = binom.pmf(np.arange(C), C - 1, q + 0.03)
        assert p(np.r_[0, other[0] + other[1], other[2:]]) < POWER
        if q < 0.5:
            assert p(np.r_[0, law[1:]]) < POWER  # a law that forces nothing
        # Which wrong classes: each distance from the label as often as another.
        offset = (np.arange(C) - labels.true[:, None]) % C
        by_offset = np.bincount(offset[candidates], minlength=C)[1:]
        assert law_p(by_offset, np.ones(C - 1)) > ALPHA

    def test_binomial_adds_exactly_one_at_q_0(self):
        candidates = bias.binomial_candidates(clean(2000), 0, 0)
        assert np.all(candidates.sum(axis=1) == 2)
        offset = (np.arange(C) - clean(2000).true[:, None]) % C
        assert law_p(np.bincount(offset[candidates], minlength=C)[1:], np.ones(C - 1)) > ALPHA

    def test_binomial_with_two_classes(self):
        assert bias.binomial_candidates(clean(10, 2), 0, 0).all()

    def test_pair_law(self):
        labels = clean(2000)
        candidates = bias.pair_candidates(labels, 0.3, 0)
        rows = np.arange(len(labels.ids))
        taken = candidates[rows, (labels.true + 1) % C]
        assert candidates.sum() == len(rows) + taken.sum()  # no other class
        assert law_p([taken.sum(), (~taken).sum()], [0.3, 0.7]) > ALPHA
        assert law_p([taken.sum(), (~taken).sum()], [0.33, 0.67]) < POWER
        assert bias.pair_candidates(labels, 1, 0).sum() == 2 * len(rows)
