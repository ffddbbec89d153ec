"""Mixup: its algebra, its law, and that it runs inside a compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from cmwnet_jax.core.mixing import draw_mixture, mix
from cmwnet_jax.errors import UsageError

KEY = jax.random.key(0)


def make_batch(n: int = 6, num_classes: int = 3) -> dict:
    images = np.random.default_rng(0).normal(size=(n, 2, 2, 1)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.arange(n) % num_classes, "id": jnp.arange(n)}


def shares(alpha: float, keep_larger: bool, draws: int = 2000) -> np.ndarray:
    draw = jax.vmap(lambda key: draw_mixture(key, 4, alpha=alpha, keep_larger=keep_larger).share)
    return np.asarray(draw(jax.random.split(KEY, draws)))


def test_mixes_images_and_labels_alike():
    batch = make_batch()
    mixed = mix(batch, KEY, num_classes=3)
    mixture = draw_mixture(KEY, 6)
    share, partner = float(mixture.share), np.asarray(mixture.partner)
    assert sorted(partner.tolist()) == list(range(6))
    one_hot = np.eye(3)[np.asarray(batch["label"])]
    for name, values in (("image", np.asarray(batch["image"])), ("label", one_hot)):
        expected = share * values + (1 - share) * values[partner]
        np.testing.assert_allclose(mixed[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(mixed["id"], batch["id"])
    assert mixed["image"].dtype == mixed["label"].dtype == jnp.float32


def test_soft_labels_need_no_number_of_classes():
    batch = make_batch()
    soft = {**batch, "label": jax.nn.one_hot(batch["label"], 3)}
    np.testing.assert_allclose(mix(soft, KEY)["label"], mix(batch, KEY, num_classes=3)["label"])


def test_leaves_the_batch_alone_and_follows_the_key():
    batch = make_batch()
    before = np.array(batch["image"])
    first, again, other = (mix(batch, jax.random.key(seed), num_classes=3)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(batch["image"], before)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("alpha", "other"), [(1.0, 4.0), (4.0, 1.0), (0.2, 1.0)])
def test_share_follows_the_beta_law(alpha, other):
    drawn = shares(alpha, keep_larger=False)
    assert kstest(drawn, "beta", (alpha, alpha)).pvalue > 1e-3
    assert kstest(drawn, "beta", (other, other)).pvalue < 1e-6


def test_keeping_the_larger_share():
    plain, larger = shares(1.0, keep_larger=False), shares(1.0, keep_larger=True)
    np.testing.assert_array_equal(larger, np.maximum(plain, 1 - plain))


def test_runs_compiled_in_float64(x64):
    batch = {name: value.astype(jnp.float64) for name, value in make_batch().items() if name == "image"}
    batch["label"] = jnp.eye(6, dtype=jnp.float64)
    mixed = jax.jit(lambda batch, key: mix(batch, key))(batch, KEY)
    assert mixed["image"].dtype == mixed["label"].dtype == jnp.float64
    np.testing.assert_allclose(mixed["label"].sum(axis=1), 1, rtol=1e-15)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_refuses_alphas_that_are_not_positive(alpha):
    with pytest.raises(UsageError, match="expected a positive number"):
        mix(make_batch(), KEY, num_classes=3, alpha=alpha)


def test_refuses_class_indices_alone():
    with pytest.raises(UsageError, match="expected num_classes"):
        mix(make_batch(), KEY)
