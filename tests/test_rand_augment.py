"""RandAugment, op by op against Pillow, and its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from cmwnet_jax.data.image_ops import OPS, apply_ops
from cmwnet_jax.data.rand_augment import draw_ops, rand_augment
from cmwnet_jax.errors import UsageError

STRENGTHS = np.float32([-1, -0.83, -0.5, -0.21, 0, 0.07, 0.3, 0.45, 0.66, 0.9, 1])
SHAPES = ((32, 32, 3), (9, 14, 3), (28, 28, 1), (2, 5, 1))
# Pillow blends and stretches in floating point, and in the other ops counts in whole numbers.
ROUNDED = ("autocontrast", "brightness", "color", "contrast", "sharpness")
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}

apply_jitted = jax.jit(apply_ops)


def by_pillow(image, name, strength):
    """What Pillow makes of one image [h, w, c]."""
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    strength, (width, height) = float(strength), picture.size
    affine = {
        "shear_x": (1, 0.3 * strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * strength, 1, 0),
        "translate_x": (1, 0, 0.3 * strength * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.3 * strength * height),
    }
    if name in affine:
        out = picture.transform(picture.size, Image.Transform.AFFINE, affine[name], Image.Resampling.NEAREST)
    elif name == "rotate":
        out = picture.rotate(30 * strength, Image.Resampling.NEAREST)
    elif name in ENHANCERS:
        out = ENHANCERS[name](picture).enhance(0.95 - 0.9 * abs(strength))
    elif name == "posterize":
        out = ImageOps.posterize(picture, 8 - min(int(5 * abs(strength)), 4))
    elif name == "solarize":
        out = ImageOps.solarize(picture, 256 * (1 - abs(strength)))
    else:
        change = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "identity": np.copy}
        out = change[name](picture)
    out = np.asarray(out)
    return out[..., None] if grey else out


def levels_apart(got, expected):
    return int(np.abs(np.asarray(got, np.int32) - np.asarray(expected, np.int32)).max())


def random_images(count, shape, seed=0):
    """Some of the full range of levels, some of few or even one, as real images may be."""
    rng = np.random.default_rng(seed)
    low, spread = rng.integers(0, 100, count), rng.permutation([156, 156, 90, 30, 2, 1])[np.arange(count) % 6]
    images = low[:, None, None, None] + rng.integers(spread[:, None, None, None], size=(count, *shape))
    return images.astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPS)
def test_each_op_is_pillows(name, shape):
    strengths = np.tile(STRENGTHS, 6)
    images = random_images(len(strengths), shape)
    ops = np.full(len(images), OPS.index(name))
    got = np.asarray(apply_jitted(images, ops, strengths))
    assert got.dtype == np.uint8
    expected = np.stack([by_pillow(i, name, s) for i, s in zip(images, strengths, strict=True)])
    assert levels_apart(got, expected) <= (name in ROUNDED)


@pytest.mark.parametrize("channels", [1, 3])
def test_ops_of_a_batch_follow_one_another(channels):
    """Every op that was drawn, on what the ops before have left."""
    images, rows, key = random_images(40, (16, 16, channels)), np.arange(40), jax.random.key(0)
    ops, strengths = draw_ops(rows, key, num_ops=3, magnitude=None)
    now = images
    for i in range(3):
        after = np.asarray(apply_jitted(now, ops[:, i], strengths[:, i]))
        for image, op, strength, got in zip(now, ops[:, i], strengths[:, i], after, strict=True):
            assert levels_apart(got, by_pillow(image, OPS[op], strength)) <= (OPS[op] in ROUNDED)
        now = after
    np.testing.assert_array_equal(rand_augment(images, rows, key, num_ops=3, magnitude=None), now)


def test_ops_strengths_and_signs_are_uniform():
    ops, strengths = draw_ops(np.arange(7000), jax.random.key(0), num_ops=2, magnitude=None)
    pairs = np.bincount(np.asarray(ops[:, 0] * len(OPS) + ops[:, 1]), minlength=len(OPS) ** 2)
    assert stats.chisquare(pairs).pvalue > 1e-3  # each op of a pair, and each given the other
    assert stats.kstest(np.asarray(strengths).ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    by_op = [np.abs(np.asarray(strengths)[np.asarray(ops) == op]) for op in range(len(OPS))]
    assert stats.f_oneway(*by_op).pvalue > 1e-3


def test_a_magnitude_is_the_strength_of_every_op():
    _, strengths = draw_ops(np.arange(200), jax.random.key(0), num_ops=2, magnitude=7)
    np.testing.assert_allclose(np.unique(strengths), [-0.7, 0.7], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_ops": 1, "magnitude": None, "cutout_pixels": 5}])
def test_an_examples_ops_do_not_depend_on_its_batch(options):
    images, rows, key = random_images(12, (10, 8, 3)), np.arange(12) + 1000, jax.random.key(2)
    whole = rand_augment(images, rows, key, **options)
    others = np.array([7, 3, *range(20, 30)]) % 12  # of one size: eager operations are compiled for each
    np.testing.assert_array_equal(rand_augment(images[others], rows[others], key, **options), whole[others])
    alone = rand_augment(images[[7]], rows[[7]], key, **options)  # here passes are left out
    np.testing.assert_array_equal(alone[0], whole[7])
    assert not np.array_equal(whole, rand_augment(images, rows, jax.random.key(3), **options))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_compiled_once_and_can_be_mapped(channels):
    traces = []

    @jax.jit
    def jitted(images, rows, key):
        traces.append(images.shape)
        return rand_augment(images, rows, key, magnitude=None, cutout_pixels=3)

    images = random_images(6, (8, 9, channels))
    keys = jax.random.split(jax.random.key(0), 3)
    each = [jitted(images, np.arange(6) + i, key) for i, key in enumerate(keys)]
    assert len(traces) == 1
    assert each[0].shape == images.shape
    assert each[0].dtype == jnp.uint8
    mapped = jax.jit(jax.vmap(jitted, in_axes=(None, 0, 0)))
    np.testing.assert_array_equal(mapped(images, np.arange(6) + np.arange(3)[:, None], keys), np.stack(each))


def test_cutout_is_one_grey_square_about_a_uniform_place():
    count, side = 3000, 3
    images = np.zeros((count, 6, 5, 3), np.uint8)
    out = np.asarray(rand_augment(images, np.arange(count), jax.random.key(0), num_ops=0, cutout_pixels=side))
    assert set(np.unique(out)) == {0, 127}
    windows = {}
    for y in range(6):
        for x in range(5):
            window = np.zeros((6, 5), bool)
            window[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
            windows[window.tobytes()] = (y, x)
    places = [windows[(image[..., 0] == 127).tobytes()] for image in out]
    assert stats.chisquare(np.bincount([5 * y + x for y, x in places], minlength=30)).pvalue > 1e-3


def test_no_ops_leave_images_alone():
    images = random_images(4, (6, 6, 1))
    np.testing.assert_array_equal(rand_augment(images, np.arange(4), jax.random.key(0), num_ops=0), images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ops": -1}, "num_ops is -1, expected at least 0"),
        ({"magnitude": 11}, "magnitude is 11, expected 0 to 10"),
        ({"magnitude": -0.5}, "magnitude is -0.5"),
        ({"magnitude": float("nan")}, "magnitude is nan"),
        ({"cutout_pixels": -2}, "cutout_pixels is -2, expected at least 0"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        rand_augment(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2), jax.random.key(0), **options)


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (4, np.uint8), (3, np.float32)])
def test_images_that_are_neither_grey_nor_rgb_are_named(channels, dtype):
    images = np.zeros((2, 4, 4, channels), dtype)
    with pytest.raises(UsageError, match=f"images are .* with {channels} channels, expected uint8 with 1 or 3"):
        rand_augment(images, np.arange(2), jax.random.key(0))
