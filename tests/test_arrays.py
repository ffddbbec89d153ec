"""The data set `arrays`: vectors, tokens and images from an .npz file, on both input paths."""

import re

import numpy as np
import pytest
from test_builders import refused
from test_train import small_config

from cmwnet_jax.audit.examples import read_examples
from cmwnet_jax.audit.inputs import read_inputs
from cmwnet_jax.data import sources
from cmwnet_jax.data.augment import column_moments
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.corrections import correction_arrays
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.inputs import open_input
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior

NAMES = np.array(["cat", "dog", "eel"])
WIDTH = 5


def vectors(train: int = 60, test: int = 30) -> dict[str, np.ndarray]:
    """Three classes; a column of large numbers, and one that is constant."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(train + test) % 3)
    x = rng.normal(size=(train + test, WIDTH)) + labels[:, None]
    x[:, 1] = 1e3 * x[:, 1] + 1e6
    x[:, 4] = 7
    return {
        "train_x": x[:train],
        "train_y": NAMES[labels[:train]],
        "test_x": x[train:],
        "test_y": NAMES[labels[train:]],
    }


def tokens(length: int = 6) -> dict[str, np.ndarray]:
    arrays = vectors()
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        of_class = np.unique(arrays[f"{split}_y"], return_inverse=True)[1]
        words = rng.integers(1, 4, size=(len(of_class), length)) + 3 * of_class[:, None]
        kept = rng.integers(2, length + 1, size=len(of_class))
        arrays[f"{split}_x"] = np.where(np.arange(length) < kept[:, None], words, 0)
    return arrays


def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return vectors() | {
        f"{split}_x": rng.integers(256, size=(size, 8, 7, 3), dtype=np.uint8)
        for split, size in (("train", 60), ("test", 30))
    }


def written(folder, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def config_of(folder, arrays, **fields):
    """A short run on these arrays, without a bias."""
    usual = {"data__bias": "none", "batch_size": 12, "meta_set__batch_size": 8, "chunk_steps": 10}
    usual["data__raw_dir"] = str(written(folder, arrays))
    return small_config(data__name="arrays", **{**usual, **fields})


class TestContents:
    def test_vectors_come_back_with_names_and_ids(self, tmp_path):
        arrays = vectors() | {"ids": np.array([f"q{row}" for row in range(60)]), "paths": np.arange(60)}
        found = sources.load("arrays", str(tmp_path / "data"), str(written(tmp_path, arrays)))
        assert found.class_names == tuple(NAMES)
        np.testing.assert_array_equal(found.train.images, arrays["train_x"].astype(np.float32))
        np.testing.assert_array_equal(NAMES[found.test.labels], arrays["test_y"])
        assert found.train.images.dtype == np.float32 and list(found.train.ids[:2]) == ["q0", "q1"]
        source = sources.open("arrays", str(tmp_path / "data"))  # the one that is prepared
        assert [source.train[3]["path"], source.test[3]["path"], source.test[3]["id"]] == ["3", "", "00003"]

    def test_whole_numbers_are_classes_in_numerical_order_or_indices_of_names(self, tmp_path):
        numbers = {"cat": -5, "dog": 10, "eel": 9}
        arrays = vectors() | {
            name: np.array([numbers[label] for label in vectors()[name]]) for name in ("train_y", "test_y")
        }
        found = sources.load("arrays", str(tmp_path / "data"), str(written(tmp_path, arrays)))
        assert found.class_names == ("-5", "9", "10")
        np.testing.assert_array_equal(np.array([-5, 9, 10])[found.train.labels], arrays["train_y"])
        places = {"cat": 2, "dog": 0, "eel": 1}
        arrays |= {
            name: np.array([places[label] for label in vectors()[name]]) for name in ("train_y", "test_y")
        }
        arrays["class_names"] = np.array(["dog", "eel", "cat"])
        found = sources.load("arrays", str(tmp_path / "data"), str(written(tmp_path, arrays)))
        np.testing.assert_array_equal(np.array(found.class_names)[found.test.labels], vectors()["test_y"])

    def test_tokens_know_their_vocabulary_and_images_stay_bytes(self, tmp_path):
        source = sources.open("arrays", str(tmp_path / "data"), str(written(tmp_path, tokens())))
        assert source.vocabulary == 10 and source.train[0]["image"].dtype == np.int32
        found = sources.load("arrays", str(tmp_path / "data"), str(written(tmp_path, images())))
        np.testing.assert_array_equal(found.train.images, images()["train_x"])

    def test_true_labels_beside_the_given_ones(self, tmp_path):
        arrays = vectors()
        given = arrays["train_y"].copy()
        given[:6] = np.roll(NAMES, 1)[np.searchsorted(NAMES, given[:6])]
        arrays |= {"train_true": arrays["train_y"], "train_y": given}
        for path in ("device", "stream"):
            data = load_data(config_of(tmp_path, arrays, data__path=path))
            assert data.biased.wrong_rate == 0.1
            np.testing.assert_array_equal(NAMES[data.biased.given], given)
            np.testing.assert_array_equal(NAMES[data.splits["train"].take(np.arange(60)).label], given)
            hidden = load_data(config_of(tmp_path, arrays, data__path=path, data__truth="unknown"))
            assert not hidden.biased.truth_known
            biased = load_data(config_of(tmp_path, arrays, data__path=path, meta_set__kind="held_out"))
            assert (
                biased.true_labels[biased.record.held_out]
                == biased.splits["held_out"].take(np.arange(30)).label
            ).all()


class TestInputs:
    def test_vectors_are_standardised_by_the_training_split(self, tmp_path):
        arrays = vectors()
        arrays["test_x"][:, 4] = 9
        seen = {}
        for path in ("device", "stream"):
            data = load_data(config_of(tmp_path, arrays, data__path=path))
            recipe = build_recipe(config_of(tmp_path, arrays, data__path=path), data)
            inputs = open_input(data, recipe.method.streams, recipe.orders, 0, recipe.one_step_a_call)
            seen[path] = [
                inputs.map_split(split, lambda batch: batch["image"])() for split in ("train", "test")
            ]
        train_x, test_x = arrays["train_x"].astype(np.float32).astype(float), arrays["test_x"]
        std = np.where(np.arange(WIDTH) < 4, train_x.std(axis=0), 1)
        for found in seen.values():
            np.testing.assert_allclose(found[0], (train_x - train_x.mean(axis=0)) / std, atol=2e-4)
            np.testing.assert_allclose(found[1], (test_x - train_x.mean(axis=0)) / std, atol=2e-4)
            assert (found[0][:, 4] == 0).all() and (found[1][:, 4] == 2).all()
        for device, stream in zip(*seen.values(), strict=True):
            np.testing.assert_array_equal(device, stream)

    def test_moments_in_parts_are_those_of_the_whole(self):
        x = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1e-3, 1e3] + [0, 5, 1e5]
        x = np.concatenate([x, np.full((50, 1), 0.1)], axis=1)
        mean, std = column_moments(np.split(x, [7, 30]))
        np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(std, [*x.std(axis=0)[:3], 1], rtol=1e-6)
        _, std = column_moments(np.split(x, [7, 30]), together=True)
        np.testing.assert_allclose(std, np.sqrt(np.mean(x.var(axis=0))), rtol=1e-6)
        assert column_moments([np.ones((4, 3))], together=True)[1].tolist() == [1, 1, 1]

    def test_columns_of_one_unit_are_scaled_by_one_number_also_once_prepared(self, tmp_path):
        arrays, x = vectors() | {"one_unit": np.array(True)}, vectors()["train_x"]
        load_data(config_of(tmp_path, arrays, data__dir=str(tmp_path / "data")))
        config = config_of(tmp_path, arrays, data__dir=str(tmp_path / "data"), data__raw_dir="", method="erm")
        data = load_data(config)
        recipe = build_recipe(config, data)
        inputs = open_input(data, recipe.method.streams, recipe.orders, 0, recipe.one_step_a_call)
        expected = (vectors()["test_x"] - x.mean(axis=0)) / np.sqrt(np.mean(x.var(axis=0)))
        seen = inputs.map_split("test", lambda batch: batch["image"])()
        np.testing.assert_allclose(seen, expected, atol=2e-4)

    def test_a_note_names_columns_for_which_float32_is_too_coarse(self, tmp_path, capsys):
        contents = vectors()
        for name in ("train_x", "test_x"):
            contents[name] = contents[name].astype(np.float64) + np.array(
                [1e9, *[0] * (contents[name].shape[1] - 1)]
            )
        load_data(config_of(tmp_path, contents))
        assert "note: float32 hardly tells the numbers of the column '0' apart" in capsys.readouterr().err

    def test_a_run_on_vectors(self, tmp_path):
        config = config_of(tmp_path, vectors(), method="erm", num_epochs=1, warmup_epochs=0)
        run = tmp_path / "run"
        assert np.isfinite(train(config, run)["test_loss_last"])
        assert len(read_inputs(read_examples(run), [0]).texts) == 1
        arrays = vectors()
        written(tmp_path, arrays | {name: arrays[name][::-1] for name in ("train_x", "train_y")})
        with pytest.raises(UsageError, match="arrays are not those that the run was trained on"):
            read_inputs(read_examples(run), [0])
        with pytest.raises(UsageError, match="was trained on other data than its config gives now"):
            save_posterior(run, str(tmp_path / "p.npy"))

    def test_corrected_labels_of_vectors_have_no_pictures(self, tmp_path):
        data = load_data(config_of(tmp_path, vectors()))
        found = correction_arrays(data, np.eye(3)[(data.biased.given + 1) % 3], seed=0)
        assert "images" not in found and found["num_changed"] == 60


def without(name):
    return lambda arrays: arrays.pop(name)


def changed(**new):
    return lambda arrays: arrays.update({name: value(arrays) for name, value in new.items()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("test_x"), "which has train_x, train_y, test_y, and no test_x"),
        (changed(train_xs=lambda a: a["train_x"]), "an array 'train_xs', .*did you mean 'train_x'"),
        (changed(train_y=lambda a: a["train_y"][:-1]), r"train_y has the shape \(59,\) and train_x \(60, 5\)"),
        (changed(ids=lambda a: np.arange(59)), r"ids has the shape \(59,\)"),
        (changed(ids=lambda a: np.arange(60) // 2), "ids has the id '0' more than once"),
        (changed(train_x=lambda a: np.where(a["train_x"] == 7, np.nan, a["train_x"])), r"nan at \(0, 4\)"),
        (changed(train_x=lambda a: a["train_x"] * 1e40), "train_x.* is too large for float32"),
        (changed(test_x=lambda a: a["test_x"][:, :4]), r"train_x is float32 of \(5,\) .* of \(4,\)"),
        (changed(train_x=lambda a: a["train_x"].round().astype(int) - 9), "expected tokens from 0"),
        (changed(train_x=lambda a: a["train_x"][:, :, None]), r"train_x is float64 of shape \(60, 5, 1\)"),
        (changed(train_x=lambda a: a["train_x"][:0]), "train_x is empty"),
        (changed(test_y=lambda a: np.where(a["test_y"] == "cat", "Cat", a["test_y"])), "the label 'Cat'"),
        (changed(test_y=lambda a: np.zeros(30, int)), "of two kinds .train_y text and test_y whole numbers"),
        (changed(train_y=lambda a: np.zeros(60)), "train_y is float64"),
        (changed(train_y=lambda a: np.full(60, "cat"), test_y=lambda a: np.full(30, "cat")), "at least 2"),
        (changed(train_y=lambda a: np.array(["fox", *a["train_y"][1:]])), "1 of 4 .* single example .* 'fox'"),
        (changed(class_names=lambda a: [*NAMES, "fox"]), "have no example in train_y, the first 'fox'"),
        (changed(train_y=lambda a: a["train_y"].astype(object)), "pickles could run any code"),
        (changed(words=lambda a: NAMES), "which has an array words, but no tokens: take it out"),
        (lambda a: a.update(tokens() | {"words": NAMES}), "words has 3 entries, expected one for each"),
        (lambda a: a.update(tokens() | {"one_unit": np.array(True)}), "an array one_unit, but no vectors"),
        (changed(one_unit=lambda a: np.ones(5)), r"one_unit is float64 of shape \(5,\), expected a"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence(tmp_path, spoil, message):
    arrays = vectors()
    spoil(arrays)
    assert re.search(message, refused("arrays", tmp_path, written(tmp_path, arrays)))


def test_a_missing_or_damaged_file_is_one_sentence(tmp_path):
    assert "which does not exist: set --config.data.raw_dir to an .npz" in refused(
        "arrays", tmp_path, tmp_path / "a.npz"
    )
    (tmp_path / "b.npz").write_bytes(written(tmp_path, vectors()).read_bytes()[:-30])
    assert "which cannot be read as an .npz file" in refused("arrays", tmp_path, tmp_path / "b.npz")
    message = refused("arrays", tmp_path, "")
    assert "set --config.data.raw_dir to an .npz file of train_x" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment__flip": True}, "augment.flip is True, but the inputs are no images"),
        ({"augment__pad_pixels": 2}, "augment.pad_pixels is 2, but the inputs are no images"),
        ({"augment__rand_ops": 1}, "augment.rand_ops is 1, but the inputs are no images"),
        ({"data__path": "stream", "data__crop_pixels": 4}, "data.crop_pixels is 4, but arrays holds vectors"),
        ({"model__name": "small_cnn"}, "'small_cnn', which takes images, .* holds vectors: .* mlp"),
    ],
)  # fmt: skip
def test_what_is_for_images_only_is_refused(tmp_path, fields, message):
    config = config_of(tmp_path, vectors(), **fields)
    with pytest.raises(UsageError, match=message):
        build_recipe(config, load_data(config))
