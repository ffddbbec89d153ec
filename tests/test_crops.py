"""Random areas, scale jitter and colour jitter: against loops, and the same whatever else is in the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_inputs import source_of
from test_train import small_config

from cmwnet_jax.data.augment import Augmentation, augment, check_augmentation
from cmwnet_jax.data.color_jitter import change_colors, draw_changes
from cmwnet_jax.data.fit import Fit, random_area
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.check_config import check_config

IMAGES = np.random.default_rng(0).integers(256, size=(4, 6, 5, 3), dtype=np.uint8)


def by_hand(height, width, least, rng):
    """The published procedure, draw by draw."""
    shares, logs = rng.uniform(least, 1, 10), rng.uniform(np.log(3 / 4), np.log(4 / 3), 10)
    places = rng.uniform(size=2)
    for share, log in zip(shares, logs, strict=True):
        w = round(np.sqrt(share * height * width * np.exp(log)))
        h = round(np.sqrt(share * height * width / np.exp(log)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(places[0] * (width - w + 1)), int(places[1] * (height - h + 1))
            return left, top, left + w, top + h
    return None


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (7, 7), (30, 90)])
def test_random_areas_are_those_of_the_procedure(height, width):
    shares = []
    for seed in range(300):
        box = random_area(height, width, 0.08, np.random.default_rng(seed))
        expected = by_hand(height, width, 0.08, np.random.default_rng(seed))
        assert expected is None or box == expected
        left, top, right, bottom = box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / height / width)
    assert min(shares) < 0.2 and max(shares) > 0.4


def test_where_no_draw_fits_it_is_the_largest_centred_rectangle():
    assert random_area(9, 1000, 0.99, np.random.default_rng(0)) == (494, 0, 506, 9)
    assert random_area(1000, 9, 0.99, np.random.default_rng(0)) == (0, 494, 9, 506)
    assert random_area(1, 1, 0.5, np.random.default_rng(0)) == (0, 0, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_random_area_is_cropped_and_resized(channels):
    image = np.random.default_rng(1).integers(256, size=(50, 70, channels), dtype=np.uint8)
    fit = Fit(resize_pixels=30, crop_pixels=24, least_area=0.08)
    for seed in range(5):
        left, top, right, bottom = random_area(50, 70, 0.08, np.random.default_rng(seed))
        part = image[top:bottom, left:right]
        part = Image.fromarray(part[..., 0] if channels == 1 else part).resize(
            (24, 24), Image.Resampling.BILINEAR
        )
        np.testing.assert_array_equal(
            fit(image, np.random.default_rng(seed)), np.asarray(part).reshape(24, 24, -1)
        )
    np.testing.assert_array_equal(fit(image), Fit(30, 24)(image))  # in evaluation, the centre


def test_scale_jitter_draws_the_shorter_side():
    image = np.random.default_rng(1).integers(256, size=(50, 70, 3), dtype=np.uint8)
    sides = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        got = Fit(30, 24, resize_up_to_pixels=34)(image, rng)
        rng = np.random.default_rng(seed)
        side = int(rng.integers(30, 35))
        np.testing.assert_array_equal(got, Fit(side, 24)(image, rng))
        sides.add(side)
    assert sides == {30, 31, 32, 33, 34}
    np.testing.assert_array_equal(Fit(30, 24, resize_up_to_pixels=34)(image), Fit(30, 24)(image))


def test_crops_depend_on_seed_step_and_row_alone():
    images = np.random.default_rng(2).integers(256, size=(8, 20, 30, 3), dtype=np.uint8)
    split = StreamedSplit(source_of(images), np.arange(8), np.zeros(8, np.int32), Fit(0, 12, least_area=0.1))
    whole = split.read(np.arange(8, dtype=np.int32), crops=(0, 6, 5)).image
    part = split.read(np.array([6, 1], np.int32), crops=(0, 6, 5)).image
    np.testing.assert_array_equal(part, whole[[6, 1]])
    assert np.any(split.read(np.array([6], np.int32), crops=(0, 6, 6)).image != whole[[6]])


def test_color_changes_are_the_loop_over_pixels(x64):
    order = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
    factors = np.random.default_rng(1).uniform(0.2, 1.8, size=(4, 3))
    for images in (IMAGES, IMAGES[..., :1]):
        got = np.asarray(jax.jit(change_colors)(images, order, factors))
        for i, image in enumerate(images):
            x = image.astype(float)
            for change, factor in zip(order[i], factors[i], strict=True):
                grey = x @ [0.299, 0.587, 0.114] if x.shape[-1] == 3 else x[..., 0].copy()
                for row, column, channel in np.ndindex(x.shape):
                    towards = (0, grey.mean(), grey[row, column])[change]
                    value = towards + factor * (x[row, column, channel] - towards)
                    x[row, column, channel] = min(max(value, 0), 255)
            assert np.abs(got[i] - np.round(x)).max() == 0


def test_color_draws_depend_on_key_and_row_alone():
    """A permuted batch has permuted results; a step's are those of its draws."""
    rows, strength = jnp.arange(400), 0.4
    change = Augmentation(color_jitter=strength)
    images = jnp.asarray(np.resize(IMAGES, (400, 2, 2, 3)))

    @jax.jit
    def both(images, rows):
        key = jax.random.key(0)
        return draw_changes(rows, key, strength), augment(images, rows, key, change)

    (order, factors), changed = both(images, rows)
    assert np.all(np.sort(order, axis=1) == np.arange(3)) and len(np.unique(order, axis=0)) == 6
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4
    assert changed.dtype == jnp.uint8 and np.any(changed != images)
    again = both(images[::-1], rows[::-1])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[::-1]), ((order, factors), changed), again)


def test_color_jitter_is_for_grey_and_colour_images():
    with pytest.raises(UsageError, match=r"augment.color_jitter is 0.4, but images have 4 channels"):
        check_augmentation(Augmentation(color_jitter=0.4), (8, 8, 4))
    with pytest.raises(UsageError, match=r"augment.color_jitter is 0.4, but the inputs are no images"):
        check_augmentation(Augmentation(color_jitter=0.4), (8,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"least_area_percent": 8.0}, "data.least_area_percent is 8.0, but data.crop_pixels is 0"),
        (
            {"resize_up_to_pixels": 8, "resize_pixels": 4},
            "data.resize_up_to_pixels is 8, but data.crop_pixels is 0",
        ),
        ({"resize_up_to_pixels": 8, "crop_pixels": 4}, "resize_up_to_pixels is 8 and data.resize_pixels 0"),
        ({"resize_up_to_pixels": 8, "resize_pixels": 8, "crop_pixels": 4}, "is 8 and data.resize_pixels 8"),
        (
            {"resize_up_to_pixels": 9, "resize_pixels": 8, "crop_pixels": 4, "least_area_percent": 8.0},
            "is 9 and data.least_area_percent 8.0, expected one of them",
        ),
        ({"least_area_percent": 100.0, "crop_pixels": 4}, r"expected a number in \[0, 100\)"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        check_config(small_config(**{f"data__{name}": value for name, value in fields.items()}))
