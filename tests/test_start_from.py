"""A run that starts from another's classifier has all of it, and needs the original no longer than that."""

import json
import shutil

import jax
import numpy as np
import pytest
from test_train import small_config

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.runs.stored import as_json
from cmwnet_jax.train import loop
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.start_from import read_classifier


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """(folder, the state at its end) of a finished run."""
    folder = tmp_path_factory.mktemp("original") / "run [1]"
    config = small_config(method="erm", num_epochs=1, warmup_epochs=0)
    train(config, folder)
    return folder, state_of(config, folder)


def state_of(config, folder):
    recipe = build_recipe(config, load_data(config))
    with Checkpoints(folder / "checkpoints", 2) as checkpoints:
        return checkpoints.restore(recipe.state).state


def first_state(**changes):
    config = small_config(**changes)
    return build_recipe(config, load_data(config)).state


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("method", ["cmwnet", "cmwnet_sl", "erm"])
def test_the_classifier_starts_as_the_other_ended(method, original):
    """Parameters and running statistics; a teacher too. All else is as in a run from random parameters."""
    folder, ended = original
    state = first_state(method=method, model__init=str(folder), seed=5)
    assert_same((state.params, state.model_state), (ended.params, ended.model_state))
    if method == "cmwnet_sl":
        assert_same((state.teacher.params, state.teacher.model_state), (ended.params, ended.model_state))
    usual = first_state(method=method, seed=5)
    assert_same(state.weight_params, usual.weight_params)
    assert_same(jax.random.key_data(state.rng), jax.random.key_data(usual.rng))
    assert int(state.step) == 0


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"model__hidden": (17,)}, ["params/Dense_0/kernel: found .64, 16. float32, expected .64, 17."]),
        ({"model__batch_norm": False}, ["model_state/batch_stats/BatchNorm_0/mean: found", "expected nothing"]),
        ({"model__hidden": (16, 16)}, ["params/Dense_2/bias: found nothing"]),
    ],
)  # fmt: skip
def test_another_classifiers_arrays_are_named(changes, names, original, tmp_path):
    for name in names:
        with pytest.raises(UsageError, match=rf"^model.init is .*not the config's.*{name}") as error:
            train(small_config(model__init=str(original[0]), **changes), tmp_path / "run")
        assert str(error.value).isprintable()
    assert not (tmp_path / "run").exists()


def test_a_head_of_other_classes_is_one_such_difference(original):
    _, ended = original
    other = {"params": {**ended.params, "Dense_1": {"kernel": np.zeros((16, 7)), "bias": np.zeros(7)}}}
    with pytest.raises(UsageError, match=r"params/Dense_1/bias: found \(10,\) float32, expected \(7,\)"):
        read_classifier(str(original[0]), other | ended.model_state)


@pytest.mark.parametrize("kind", ["missing", "a file", "unfinished", "no checkpoint", "damaged"])
def test_what_is_no_finished_run_is_refused(kind, original, tmp_path):
    place, message = tmp_path / "other", "holds no finished run"
    if kind == "a file":
        place.write_text("")
    elif kind != "missing":
        shutil.copytree(original[0], place)
    if kind == "unfinished":
        (place / "result.json").unlink()
    if kind == "no checkpoint":
        shutil.rmtree(place / "checkpoints")
    if kind == "damaged":
        message = "damaged"
        (file, *_) = (place / "checkpoints").glob("*/state/d/*")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=f"^model.init is .*{message}"):
        train(small_config(model__init=str(place)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_start_is_enough(tmp_path):
    with pytest.raises(UsageError, match="model.pretrained is 'a.npz' and model.init 'run', expected one of"):
        check_config(small_config(model__pretrained="a.npz", model__init="run"))


def test_a_run_with_a_checkpoint_goes_on_without_the_original(original, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(original[0], copy)
    config = small_config(
        method="erm", model__init=str(copy), num_epochs=2, warmup_epochs=0, checkpoint__every_epochs=1
    )
    whole = train(config, tmp_path / "whole")
    report = loop._report

    def stopping(launch, board, bar, epoch, *others):
        report(launch, board, bar, epoch, *others)
        if epoch.number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_report", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    shutil.rmtree(copy)
    assert train(config, tmp_path / "run")["test_loss_last"] == whole["test_loss_last"]
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["init"] == str(copy)
    with pytest.raises(UsageError, match="model.init"):  # which a new run needs
        train(config, tmp_path / "new")


@pytest.mark.parametrize("field", ["pretrained", "init"])
def test_of_a_run_with_a_checkpoint_no_start_is_read(field, tmp_path, monkeypatch):
    """And what stands under a checkpoint's name is not taken for none: the classifier would be a random one."""
    config = small_config(**{"model__" + field: str(tmp_path / "gone.npz")})
    monkeypatch.setattr(loop, "_train", lambda launch: loop._restore(launch) and {})
    with pytest.raises(UsageError, match=f"model.{field}|load pretrained weights into"):
        train(config, tmp_path / "run")
    (tmp_path / "run/checkpoints/26").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text(as_json(config))
    with pytest.raises(UsageError, match="workdir has checkpoints in .* all of them damaged"):
        train(config, tmp_path / "run")
