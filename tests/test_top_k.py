"""Pseudo-labels of which the most likely classes are stored: against NumPy, over devices, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import small_config

from cmwnet_jax.core.table import blocks
from cmwnet_jax.core.top_k import TopK, WholeRows, packed, unpacked
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train

CLASSES, K = 7, 3


def probabilities(rows, seed=0):
    values = np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.3), size=rows)
    values[::4] = 0
    return values.astype(np.float32)


def largest(values, k=K):
    """By a loop over rows: the k largest, scaled to sum to 1."""
    kept = np.zeros(values.shape)
    for row, own in zip(kept, values, strict=True):
        places = np.argsort(-own, kind="stable")[:k]
        row[places] = own[places] / (own[places].sum() or 1)
    return kept


def test_what_is_kept_are_the_largest_scaled_to_one():
    values = probabilities(20)
    words = packed(jnp.asarray(values), K)
    assert (words.shape, words.dtype) == ((20, K), jnp.uint32)
    got = np.asarray(unpacked(words, CLASSES))
    np.testing.assert_allclose(got, largest(values), atol=1.01 / 65535)
    np.testing.assert_allclose(got.sum(axis=1), np.where(values.any(axis=1), 1, 0), atol=1e-6)
    again = packed(jnp.asarray(got), K)
    np.testing.assert_allclose(unpacked(again, CLASSES), got, atol=1.01 / 65535)


def test_a_table_over_four_devices_is_the_whole_one():
    """11 rows do not divide; each device reads and writes rows of others."""
    table = TopK.empty(11, CLASSES, K)
    rows = np.array([10, 0, 5, 7, 1, 2, 9, 3], np.int32)
    values = probabilities(8)
    expected = jax.jit(lambda t: t.write(rows, values))(table)
    write_and_read = parallel.pmap(
        lambda t, r, v: (t.write(r, v, parallel.AXIS), t.write(r, v, parallel.AXIS).read(r, parallel.AXIS))
    )
    state, read = write_and_read(blocks(table, 4), rows.reshape(4, 2), values.reshape(4, 2, CLASSES))
    np.testing.assert_array_equal(np.asarray(state.values).reshape(-1, K)[:11], expected.values)
    np.testing.assert_array_equal(np.asarray(read).reshape(8, CLASSES), expected.read(rows))
    np.testing.assert_allclose(expected.read(rows), largest(values), atol=1.01 / 65535)
    whole = WholeRows(expected)
    assert len(whole) == 11
    np.testing.assert_array_equal(whole[2:8], expected.read(np.arange(2, 8)))


def test_a_run_starts_with_the_given_labels_and_needs_a_fraction_of_the_memory():
    config = small_config(method="cmwnet_sl", soft_labels__top_k=K, soft_labels__start_from="given")
    data = load_data(config)
    memory = build_recipe(config, data).method.memory
    assert memory.values.nbytes == len(data.biased.ids) * K * 4
    np.testing.assert_array_equal(WholeRows(memory)[:], np.eye(10)[data.biased.given])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"soft_labels__top_k": 11}, "^soft_labels.top_k: TopK: k is 11 with 10 classes, expected 1 to their"),
        ({"soft_labels__top_k": 2, "soft_labels__dtype": "bfloat16"}, "top_k = 2 a class takes 4 bytes"),
        ({"soft_labels__top_k": -1}, "soft_labels.top_k is -1, expected a number"),
    ],
)
def test_mistakes(fields, message):
    config = small_config(method="cmwnet_sl", **fields)
    with pytest.raises(UsageError, match=message):
        check_config(config)
        build_recipe(config, load_data(config))


@pytest.mark.whole_runs
def test_a_run_that_keeps_all_classes_trains_as_one_with_the_whole_table(tmp_path, quick_programs):
    """But for rounding; and its results are read from the packed rows."""
    common = {"method": "cmwnet_sl", "num_epochs": 2, "warmup_epochs": 1, "data__bias": "symmetric_40"}
    whole = train(small_config(**common), tmp_path / "whole")
    kept = train(small_config(**common, soft_labels__top_k=10), tmp_path / "kept")
    assert kept["test_loss_last"] == pytest.approx(whole["test_loss_last"], rel=1e-3)
    expected, got = (read_arrays(tmp_path / name, "pseudo_labels") for name in ("whole", "kept"))
    np.testing.assert_allclose(got["given_probability"], expected["given_probability"], atol=2e-3)
