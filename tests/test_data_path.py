"""Data from a config: both input paths train alike, biases and records are found and used."""

import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import final_arrays, run_here, small_config

from cmwnet_jax import command
from cmwnet_jax.data import load as load_module
from cmwnet_jax.data import sources
from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train import parallel, posterior
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior


def trained(tmp_path, name, **fields):
    """The arrays that a short run with augmentation ends with."""
    config = small_config(num_epochs=4, augment__pad_pixels=1, augment__flip=True, **fields)
    train(config, tmp_path / name)
    return final_arrays(config, tmp_path / name)


@pytest.mark.whole_runs
def test_all_ways_of_input_train_alike(tmp_path, monkeypatch):
    """On the device in one program, in several, a step a call, and streamed."""
    device = trained(tmp_path, "device", data__path="device")
    chunked = trained(tmp_path, "chunked", data__path="device", chunk_steps=10)
    streamed = trained(tmp_path, "stream", data__path="stream")
    monkeypatch.setattr(parallel, "loops_are_slow", lambda *arguments: True)
    stepped = trained(tmp_path, "stepped", data__path="device")
    for others in (chunked, streamed, stepped):
        for (path, expected), (_, got) in zip(device, others, strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5, err_msg=jax.tree_util.keystr(path))


def test_convolutions_on_a_cpu_are_found_and_not_put_into_a_loop():
    images = jnp.zeros((1, 8, 8, 1))
    for model, slow in ((nn.Conv(2, (3, 3)), True), (nn.Dense(2), False)):
        variables = model.init(jax.random.key(0), images)
        assert parallel.loops_are_slow(model.apply, variables, images) == slow


def test_pseudo_labels_and_mixup_of_the_meta_set(tmp_path):
    config = small_config(num_epochs=4, meta_set__pseudo_labels=True, meta_set__mixup=True)
    assert np.isfinite(train(config, tmp_path / "run")["test_loss_last"])


def test_a_run_can_be_started_from_a_saved_record(tmp_path):
    train(small_config(num_epochs=3), tmp_path / "first")
    described = json.loads((tmp_path / "first" / "bias.json").read_text())
    again = load_data(small_config(data__record=str(tmp_path / "first"), data__bias="none", seed=9))
    first = load_data(small_config())
    np.testing.assert_array_equal(again.biased.given, first.biased.given)
    assert again.record.name == described["name"] == "long_tail_5+asymmetric_60"
    with pytest.raises(UsageError, match="has set nothing apart"):
        load_data(small_config(data__record=str(tmp_path / "first"), meta_set__kind="held_out"))


def test_the_posterior_of_a_clean_run_makes_feature_dependent_noise(tmp_path):
    config = small_config(method="erm", data__bias="none", num_epochs=2)
    train(config, tmp_path / "clean")
    assert not (tmp_path / "clean" / "corrected.npz").exists()  # which is of pseudo-labels
    path = save_posterior(tmp_path / "clean", str(tmp_path / "posterior.npy"))
    posterior = np.load(path)
    assert posterior.shape == (1257, 10)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-5)
    noisy = load_data(small_config(data__bias="pmd3_10", data__posterior=str(path)))
    assert 0.05 < noisy.biased.wrong_rate < 0.15
    with pytest.raises(UsageError, match="data.posterior is '', expected an .npy file"):
        load_data(small_config(data__bias="pmd3_10"))
    np.save(path, posterior[:50])
    with pytest.raises(UsageError, match=r"shape \(50, 10\), expected \(1257, 10\)"):
        load_data(small_config(data__bias="pmd3_10", data__posterior=str(path)))


def test_a_runs_whole_training_split_does_not_ask_for_its_method():
    fields = {"low_memory": True, "weight_net__class_feature": "shuffled", "meta_set__kind": "held_out"}
    split = posterior._whole_training_split(small_config(**fields))
    np.testing.assert_array_equal(split.row, np.arange(1257))


def test_the_posterior_of_a_biased_or_unfinished_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no finished run"):
        save_posterior(tmp_path / "none", "p.npy")
    train(small_config(num_epochs=1, warmup_epochs=0), tmp_path / "biased")
    with pytest.raises(UsageError, match="expected one on clean labels"):
        save_posterior(tmp_path / "biased", "p.npy")
    apart = {"meta_set__kind": "held_out", "meta_set__mixup": False, "data__bias": "none"}
    train(small_config(**apart, num_epochs=1, warmup_epochs=0), tmp_path / "held out")
    with pytest.raises(UsageError, match="has not seen the examples which meta_set.kind sets apart"):
        save_posterior(tmp_path / "held out", "p.npy")
    path = save_posterior(tmp_path / "biased", str(tmp_path / "p.npy"), of_given_labels=True)
    assert np.load(path).shape == (1257, 10)  # the whole split, although the long tail left most of it out
    config = small_config(method="forward", loss__forward_posterior=str(path))
    build_recipe(config, load_data(config))
    with pytest.raises(UsageError, match=r"loss.forward_posterior is 'q.npy', expected an .npy file"):
        config = small_config(method="forward", loss__forward_posterior="q.npy")
        build_recipe(config, load_data(config))


def test_human_labels_are_a_bias_by_name(tmp_path):
    true = load_data(small_config(data__bias="none")).true_labels
    worse = np.where(np.arange(len(true)) % 4 == 0, (true + 1) % 10, true)
    np.savez(tmp_path / "human.npz", clean_label=true, worse_label=worse)
    fields = {"data__human_labels": str(tmp_path / "human.npz")}
    data = load_data(small_config(data__bias="human_worse_label", **fields))
    np.testing.assert_array_equal(data.biased.given, worse)
    with pytest.raises(UsageError, match="did you mean 'worse_label'"):
        load_data(small_config(data__bias="human_worst_label", **fields))


def test_open_set_images_are_the_other_sets(tmp_path):
    config = small_config(data__bias="open_set_40", data__open_set_from="digits")
    data = load_data(config)
    shown = data.biased.foreign
    assert np.sum(shown >= 0) == int(0.4 * 1257)
    assert data.biased.wrong_rate == pytest.approx(0.4, abs=1e-3)
    images = load_data(small_config(data__bias="none")).splits["train"].image
    np.testing.assert_array_equal(data.splits["train"].image[shown >= 0], images[shown[shown >= 0]])


def test_an_open_set_record_is_not_trained_on_without_its_images(tmp_path, monkeypatch):
    config = small_config(data__bias="open_set_40", data__open_set_from="digits", num_epochs=3)
    train(config, tmp_path / "open")
    record = {"data__record": str(tmp_path / "open"), "data__bias": "none"}
    with pytest.raises(UsageError, match="open-set bias, which is for sets in memory"):
        load_data(small_config(data__path="stream", data__open_set_from="digits", **record))
    monkeypatch.setattr(load_module, "_foreign", lambda config: SimpleNamespace(name="another"))
    with pytest.raises(UsageError, match="open_set_from is 'another', but the record's images are of 'digits'"):
        load_data(small_config(data__path="device", **record))


def test_labels_of_unknown_truth_are_not_taken_for_it():
    unknown = {"data__bias": "none", "data__truth": "unknown"}
    data = load_data(small_config(**unknown))
    assert np.isnan(data.biased.wrong_rate)
    with pytest.raises(UsageError, match="held_out.*not known to be right"):
        load_data(small_config(**unknown, meta_set__kind="held_out"))


def test_kept_labels_that_are_damaged_are_read_again(tmp_path):
    source = sources.open("digits", str(tmp_path))
    labels = sources.read_labels(source, "train")
    kept = next(tmp_path.rglob("labels-train.npy"))
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(sources.read_labels(source, "train"), labels)
    np.testing.assert_array_equal(np.load(kept), labels)
    assert not list(tmp_path.rglob("*.partial*"))


def test_describe_prints_and_draws_without_training(tmp_path):
    picture = tmp_path / "pictures" / "digits.png"
    arguments = ["describe", "--config=experiments/digits.py", f"--picture={picture}"]
    done, wrong = run_here([arguments, ["descibe"]], module="cmwnet_jax.data")
    assert done.returncode == 0, done.stderr
    assert "12.28% of their labels are wrong" in done.stdout.replace("\n", " ")
    assert picture.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    assert wrong.returncode == 2
    assert "did you mean 'describe'" in wrong.stderr


def test_a_flag_that_is_needed_is_asked_for():
    with pytest.raises(UsageError, match="--workdir is missing: give a folder"):
        command.required(None, "workdir", "a folder")
