"""The tool that makes fixed features of images, against loops over patches."""

import numpy as np
import pytest

from cmwnet_jax.data import sources
from cmwnet_jax.data.sources import Dataset, Split
from cmwnet_jax.errors import UsageError
from experiments import make_features as tool


@pytest.fixture(autouse=True)
def few_patches(monkeypatch):
    monkeypatch.setattr(tool, "_WHITENING_PATCHES", 500)


def made(size: int = 12) -> Dataset:
    rng = np.random.default_rng(0)
    train, test = (
        Split(
            rng.integers(256, size=(n, size, size + 1, 3), dtype=np.uint8),
            np.arange(n) % 2,
            np.arange(n).astype(str),
        )
        for n in (30, 4)
    )
    return Dataset("made", train, test, ("a", "b"))


def test_pooled_responses_are_those_of_a_loop():
    images = made().train.images[:2]
    matrix, offset = tool.make_filters(made().train.images, 3, seed=1)
    found = tool.pooled(images, matrix, offset, 0.25)
    assert found.shape == (2, 24) and found.dtype == np.float32
    for image, features in zip(images.astype(float), found, strict=True):
        sums, counts = np.zeros((4, 2, 3)), np.zeros(4)
        for y in range(7):
            for x in range(8):
                patch = image[y : y + 6, x : x + 6].transpose(2, 0, 1).ravel()
                patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10)
                z = patch @ matrix.astype(float) - offset
                quadrant = 2 * (y >= 3) + (x >= 4)
                sums[quadrant] += np.maximum(0, [z - 0.25, -z - 0.25])
                counts[quadrant] += 1
        np.testing.assert_allclose(features, (sums / counts[:, None, None]).ravel(), rtol=1e-4, atol=1e-5)


def test_filters_are_whitened_patches_of_unit_length(monkeypatch):
    """Responses to whitened noise vary by 1."""
    monkeypatch.setattr(tool, "_WHITENING_PATCHES", 20_000)
    images = np.random.default_rng(0).integers(256, size=(300, 12, 12, 1), dtype=np.uint8)
    matrix, offset = tool.make_filters(images, 20, seed=0)
    responses = tool.normalised_patches(images).reshape(-1, 36) @ matrix - offset
    np.testing.assert_allclose(responses.mean(axis=0), 0, atol=0.1)
    assert responses.std(axis=0).min() > 0.6 and responses.std(axis=0).max() < 1.2


def test_components_are_those_of_the_training_split():
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 6)).astype(np.float32) * np.arange(1, 7) for n in (80, 9))
    found, found_test = tool.principal_components(train, test, 3)
    centred = train - train.mean(axis=0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ rows[:3].T), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        np.abs(found_test), np.abs((test - train.mean(axis=0)) @ rows[:3].T), rtol=1e-3, atol=1e-3
    )


def test_the_file_is_read_as_arrays_and_the_seed_decides(tmp_path):
    options = {"filters": 4, "components": 5}
    arrays, again, other = (tool.make_features(made(), seed=seed, **options) for seed in (0, 0, 1))
    np.savez(tmp_path / "features.npz", **arrays)
    source = sources.open("arrays", str(tmp_path / "data"), str(tmp_path / "features.npz"))
    found = sources.read(source)
    np.testing.assert_array_equal(found.train.images, again["train_x"])
    np.testing.assert_array_equal(found.test.images, again["test_x"])
    np.testing.assert_array_equal(found.train.ids, made().train.ids)
    assert source.one_unit
    assert found.class_names == ("a", "b") and not np.allclose(arrays["train_x"], other["train_x"])


@pytest.mark.parametrize(
    ("size", "components", "message"),
    [
        (6, 5, "shorter side is 6 pixels, expected at least 7"),
        (12, 31, "components is 31, expected at most 30"),
    ],
)
def test_refuses_what_cannot_be_done(size, components, message):
    with pytest.raises(UsageError, match=message):
        tool.make_features(made(size), seed=0, filters=4, components=components)
