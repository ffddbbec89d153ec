"""What a run with pseudo-labels leaves of the labels it has changed."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from test_train import small_config

from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.load import load_data
from cmwnet_jax.methods.corrections import correction_arrays, few_of_each
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.loop import train

CLASSES = 10


def made(**fields):
    return load_data(small_config(method="cmwnet_sl", **fields))


def table(data, seed=1, dtype=np.float32):
    """Pseudo-labels: half of them a random class, of the rest some have none yet and others agree."""
    rng, given = np.random.default_rng(seed), data.biased.given
    new = np.where(rng.random(len(given)) < 0.5, rng.integers(CLASSES, size=len(given)), given)
    rows = np.full((len(given), CLASSES), 0.03125)
    rows[np.arange(len(given)), new] = 1 - 9 * 0.03125
    rows[rng.random(len(given)) < 0.1] = 0
    return rows.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_the_examples_are_of_the_table_and_the_counts_are_of_all(dtype):
    data = made()
    pseudo, biased = table(data, dtype=dtype), data.biased
    found = correction_arrays(data, pseudo, seed=3)
    row_of = {example: row for row, example in enumerate(biased.ids)}
    rows = [row_of[example] for example in found["ids"]]
    new = np.argmax(pseudo, axis=1)
    sizes = np.bincount(biased.given[(new != biased.given) & pseudo.any(axis=1)])
    np.testing.assert_array_equal(np.bincount(biased.given[list(set(rows))]), np.minimum(sizes, 8))
    np.testing.assert_array_equal(found["new"], [int(np.argmax(pseudo[row])) for row in rows])
    np.testing.assert_array_equal(found["given"], biased.given[rows])
    np.testing.assert_array_equal(found["true"], biased.true[rows])
    np.testing.assert_array_equal(found["images"], data.splits["train"].image[rows])
    np.testing.assert_array_equal(found["probability"], np.full(len(rows), 1 - 9 * 0.03125))
    assert (found["new"] != found["given"]).all()
    assert tuple(found["class_names"]) == data.source.class_names
    pairs = [
        (g, t, int(np.argmax(p))) for g, t, p in zip(biased.given, biased.true, pseudo, strict=True) if p.any()
    ]
    changed = [(true, new) for given, true, new in pairs if given != new]
    assert found["num_changed"] == len(changed)
    assert found["num_changed_rightly"] == sum(true == new for true, new in changed) > 0
    assert (found["num_labels"], found["num_wrong"]) == (len(biased.ids), np.sum(biased.given != biased.true))
    again, other = (correction_arrays(data, pseudo, seed=seed)["ids"] for seed in (3, 4))
    np.testing.assert_array_equal(found["ids"], again)
    assert set(found["ids"]) != set(other)


def test_where_nothing_has_changed_there_is_no_example():
    data = made()
    for pseudo in (
        np.eye(CLASSES, dtype=np.float32)[data.biased.given],
        np.zeros((len(data.biased.ids), CLASSES)),
    ):
        found = correction_arrays(data, pseudo, seed=0)
        assert found["images"].shape == (0, *data.image_shape)
        assert found["num_changed"] == found["num_changed_rightly"] == len(found["ids"]) == 0


def test_an_unknown_truth_is_not_told():
    data = made()
    labels = dataclasses.replace(data.biased, truth_known=False)
    data = dataclasses.replace(data, record=dataclasses.replace(data.record, labels=labels))
    found = correction_arrays(data, table(data), seed=0)
    assert set(found["true"]) == {-1}
    assert found["num_wrong"] == found["num_changed_rightly"] == -1
    assert not found["truth_known"] and found["num_changed"] > 0


def test_images_of_no_class_are_wrong_and_never_changed_rightly():
    """Open-set labels alone: what is not another set's image has its true label."""
    data = made(data__bias="open_set_40", data__open_set_from="digits")
    found = correction_arrays(data, table(data), seed=0)
    assert found["num_wrong"] == int(0.4 * 1257)
    assert found["num_changed_rightly"] == 0
    assert set(found["true"]) > {-1} and (found["given"] == found["true"]).any()


def test_a_few_of_each_class_are_drawn():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [100, 2, 7, 50]))
    chosen = few_of_each(labels, 6, np.random.default_rng(1))
    assert len(set(chosen)) == 20 and (np.diff(labels[chosen]) >= 0).all()
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [6, 2, 6, 0, 0, 6])
    everyone = few_of_each(labels, 1000, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(labels)))
    firsts = [few_of_each(labels, 1, np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(np.concatenate(firsts))) > 30
    assert few_of_each(labels[:0], 5, np.random.default_rng(1)).shape == (0,)


def test_of_many_classes_fifty_are_shown_and_of_few_classes_more_examples():
    data = made()
    given = np.arange(len(data.biased.given), dtype=np.int32) % 200
    for classes, most in ((200, 8), (2, 20)):
        labels = dataclasses.replace(data.biased, given=given % classes, true=given % classes)
        of_these = dataclasses.replace(data, record=dataclasses.replace(data.record, labels=labels))
        pseudo = np.eye(200, dtype=np.float32)[(labels.given + 1) % classes]
        drawn, counts = np.unique(correction_arrays(of_these, pseudo, seed=0)["given"], return_counts=True)
        assert len(drawn) == min(classes, 50)
        np.testing.assert_array_equal(counts, np.minimum(np.bincount(labels.given)[drawn], most))


def test_streamed_images_are_the_same_and_large_ones_become_small():
    device, streamed = (made(data__path=path) for path in ("device", "stream"))
    pseudo = table(device)
    expected, got = (correction_arrays(data, pseudo, seed=0) for data in (device, streamed))
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    large = made(data__path="stream", data__resize_pixels=130, data__crop_pixels=120)
    count = len(expected["ids"])
    assert correction_arrays(large, pseudo, seed=0)["images"].shape == (count, 96, 96, 1)
    tall = np.zeros((len(pseudo), 200, 99, 3), np.uint8) + np.array([0, 100, 200], np.uint8)
    splits = {"train": Raw.whole(tall, device.biased.given)}
    images = correction_arrays(
        dataclasses.replace(device, splits=splits, image_shape=tall.shape[1:]), pseudo, 0
    )
    height, width = images["images"].shape[1:3]
    assert 90 < height <= 96 and width == round(height * 99 / 200)
    np.testing.assert_array_equal(images["images"][7, 5, 5], [0, 100, 200])


@pytest.mark.whole_runs
def test_a_run_leaves_what_its_last_checkpoint_knows(tmp_path):
    """The table is shared out over four devices, which do not divide it."""
    config = small_config(method="cmwnet_sl", num_epochs=1, warmup_epochs=0)
    data = load_data(config)
    assert len(data.biased.ids) % 4
    train(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "checkpoints", 2) as checkpoints:
        memory = checkpoints.restore(build_recipe(config, data).state).state.memory
    expected = correction_arrays(data, memory.values, config.seed)
    assert expected["num_changed"] > 0
    with np.load(tmp_path / "run" / "corrected.npz", allow_pickle=False) as found:
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
