"""An epoch's weights in numbers, and runs that break down."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_train import small_config

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import TrainingDiverged
from cmwnet_jax.train import health
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.metrics import weight_metrics


def test_weights_in_numbers():
    weights = np.array([0.0, 0.04, 0.05, 0.96, 1.0, 0.5])
    wrong = np.array([True, True, False, False, False, False])
    numbers = weight_metrics(weights, wrong, np.array([0, 0, 0, 2, 2, 2]), 3)
    assert numbers["weight_share_near_zero"] == pytest.approx(2 / 6)
    assert numbers["weight_share_near_one"] == pytest.approx(2 / 6)
    assert numbers["weight_mean_by_meta_class"] == pytest.approx([0.03, np.nan, 0.82], nan_ok=True)
    assert numbers["weight_mean_wrong"] == pytest.approx(0.02)
    assert numbers["weight_auc"] == 1
    assert numbers["weight_effective_share"] == pytest.approx(2.55**2 / (6 * np.sum(weights**2)))
    unknown = weight_metrics(weights, None, np.zeros(6, int), 1)
    assert np.isnan([unknown[f"weight_{name}"] for name in ("mean_right", "mean_wrong", "auc")]).all()


STEPS, N = 4, 10


def sound_epoch():
    """check_steps' arguments for an epoch whose 2nd and 4th steps are meta steps."""
    is_meta = np.array([False, True, False, True])
    scalars = {name: np.ones(STEPS) for name in ("loss", "objective", "grad_norm")}
    scalars |= {name: np.where(is_meta, 1, np.nan) for name in ("meta_loss", "meta_grad_norm")}
    examples = {"losses": np.ones((STEPS, N)), "weights": np.full((STEPS, N), 0.5)}
    ids = 100 + np.arange(STEPS * N).reshape(STEPS, N)
    return {"scalars": scalars, **examples, "ids": ids, "is_meta": is_meta, "first_step": 70}


def test_a_sound_epoch_passes_and_means_are_over_the_steps_that_count():
    epoch = sound_epoch()
    health.check_steps(**epoch)
    epoch["scalars"]["meta_loss"][1] = 3
    means = health.scalar_means(epoch["scalars"], epoch["is_meta"])
    assert means["meta_loss"] == 2
    assert means["loss"] == 1
    none = health.scalar_means(epoch["scalars"], np.zeros(STEPS, bool))
    assert np.isnan(none["meta_loss"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "objective", "grad_norm", "meta_loss", "meta_grad_norm"])
def test_a_bad_scalar_is_named_with_its_step_and_its_batch(name, value):
    epoch = sound_epoch()
    epoch["scalars"][name][3] = value
    with pytest.raises(
        TrainingDiverged,
        match=f"^{name} has become {value} at step 73, .* examples 130, 131, .*, 137 and 2 more$",
    ):
        health.check_steps(**epoch)


@pytest.mark.parametrize("name", ["losses", "weights"])
def test_a_bad_example_is_named_and_the_earliest_step_counts(name):
    epoch = sound_epoch()
    epoch[name][2, [4, 6]] = np.nan
    epoch["scalars"]["loss"][2:] = np.nan
    with pytest.raises(TrainingDiverged, match=f"^the {name} have become nan at step 72, .* 124, 126$"):
        health.check_steps(**epoch)


def test_weights_that_are_all_zero_are_found_and_single_ones_are_not():
    epoch = sound_epoch()
    epoch["weights"][0, :-1] = 0
    health.check_steps(**epoch)
    epoch["weights"][1] = 1e-40  # not 0, and yet no weight: dividing by their sum would overflow
    with pytest.raises(TrainingDiverged, match="^the weights are all 0 at step 71, .* 110, 111"):
        health.check_steps(**epoch)


def test_a_bad_update_is_found_by_the_test_split_or_at_the_latest_before_it_is_saved():
    health.check_test_losses(np.ones(5), 8)
    with pytest.raises(
        TrainingDiverged, match="test losses have become inf .* step 7, on the test examples 3$"
    ):
        health.check_test_losses(np.array([1, 1, 1, np.inf, 1]), 8)
    state = {"params": {"kernel": np.ones(3)}, "step": np.ones(1, int), "rng": jax.random.key(0)}
    health.check_state(state, 8)
    state["params"]["kernel"][1] = np.nan
    with pytest.raises(TrainingDiverged, match=r"state\['params'\]\['kernel'\] has become .* by step 7"):
        health.check_state(state, 8)


def test_a_run_that_diverges_stops_and_keeps_the_checkpoint_from_before(tmp_path):
    explodes = {"optimizer__decay_at_percent": (60.0,), "optimizer__decay_factor": 1e30}
    config = small_config(method="erm", **explodes)
    recipe = build_recipe(config, load_data(config))
    kept = 2 * recipe.epoch_steps
    with pytest.raises(
        TrainingDiverged, match=rf"at step .* examples [0-9, ]+.*checkpoints/{kept}\. The same config"
    ):
        train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert all(line["test_loss"] is not None for line in lines)
    assert not (tmp_path / "run" / "result.json").exists()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", 1)
    steps_done, state, _ = checkpoints.restore(recipe.state)
    checkpoints.close()
    assert steps_done == kept
    health.check_state(state, 0)


def test_a_run_that_diverges_at_once_says_that_nothing_is_kept(tmp_path):
    config = small_config(method="erm", optimizer__learning_rate=1e30, num_epochs=2)
    with pytest.raises(TrainingDiverged, match="no checkpoint had been written yet. The same config"):
        train(config, tmp_path / "run")


def test_a_command_that_diverges_has_a_status_of_its_own_and_no_traceback():
    code = (
        "from cmwnet_jax import command, errors\n"
        "def main(argv): raise errors.TrainingDiverged('loss has become nan')\n"
        "command.run(main)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "error: loss has become nan\n"
