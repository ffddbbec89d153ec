"""Algorithm 2: training with a weight net that was learned elsewhere."""

import json
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_methods import BIAS, built, taken
from test_train import small_config

import cmwnet_jax as cmw
from cmwnet_jax import drawing
from cmwnet_jax.methods import METHODS
from cmwnet_jax.report.write import write_report
from cmwnet_jax.train import health, loop
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior
from cmwnet_jax.train.result import learned_ranges, weighting_arrays

TRANSFERABLE = [name for name, spec in METHODS.items() if "weight_net.init" in spec.options]


def learned(path, num_meta_classes=3, hidden=100, loss_range=(0.0, 50.0)):
    net = cmw.WeightNet(num_meta_classes, hidden)
    weight_params = net.init(jax.random.key(7), np.ones(1), np.zeros(1, int))
    centers = np.arange(1.0, 1 + num_meta_classes)
    cmw.save_weight_net(path, weight_params, centers=centers, loss_range=loss_range)
    return weight_params


@pytest.mark.parametrize("method", TRANSFERABLE)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_starts_from_the_weight_net_and_learns_on_unless_it_is_frozen(method, frozen, tmp_path):
    weight_params = learned(tmp_path / "net", 1 if method == "mwnet" else 3)
    bias = {"data__bias": "labels_80"} if method == "fixmatch_cmwnet" else {}
    _, recipe = built(method=method, weight_net__init=str(tmp_path / "net"), weight_net__frozen=frozen, **bias)
    jax.tree.map(np.testing.assert_array_equal, recipe.state.weight_params, weight_params)
    *before, main = recipe.method.phases
    assert main.weighs and not any(phase.weighs for phase in before)
    assert main.learns(np.arange(5)).any() == ("meta" in main.streams) == (not frozen)
    assert recipe.method.weight_net.known_range == (0.0, 50.0)
    assert recipe.method.weight_net.learns == (not frozen)
    assert (recipe.state.weight_opt_state == ()) == frozen


@pytest.mark.parametrize("method", ["cmwnet", "cmwnet_sl"])
def test_a_frozen_weight_net_gives_its_own_weights_and_stays(method, tmp_path):
    weight_params = learned(tmp_path / "net")
    data, recipe = built(method=method, weight_net__init=str(tmp_path / "net"), weight_net__frozen=True)
    state, metrics = taken(recipe, data, steps=2)
    after = jax.tree.map(lambda leaf: leaf[0], state.weight_params)
    jax.tree.map(np.testing.assert_array_equal, after, weight_params)
    assert np.isnan(metrics["meta_loss"]).all()
    losses, weights = (np.asarray(metrics[name]).ravel() for name in ("losses", "weights"))
    own = recipe.method.weight_net.functions(weight_params, losses)
    assert np.abs(own - weights).min(axis=0).max() < 1e-6


def test_a_frozen_run_chooses_no_meta_set_and_warns_of_losses_that_are_new_to_the_net(tmp_path, capfd):
    learned(tmp_path / "net", loss_range=(0.0, 0.5))
    config = small_config(
        data__bias=BIAS,
        num_epochs=3,
        warmup_epochs=1,
        weight_net__init=str(tmp_path / "net"),
        weight_net__frozen=True,
        meta_set__batch_size=3,  # of no use here, and no multiple of the devices
    )
    result = train(config, tmp_path / "run")
    first, _, last = (json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert last["meta_loss"] is None and "meta_set_size" not in last
    assert 0 < last["loss_share_outside_range"] < 1
    assert "loss_share_outside_range" not in first and "weight_auc" not in first
    assert 0 < result["weight_auc_last10"] < 1
    said = capfd.readouterr().err
    assert said.count("warning: epoch") == 1  # not once for each epoch
    assert "outside of 0 to 0.5" in said
    with pytest.raises(cmw.UsageError, match="holds no weight net"):
        cmw.load_weight_net(tmp_path / "run")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_goes_on_without_the_file_that_it_started_from(frozen, tmp_path, monkeypatch):
    """Its own copy has the parameters, and the losses that the warning and the saved net are about."""
    weight_params = learned(tmp_path / "net", loss_range=(-1.0, 0.5))
    fields = {"weight_net__init": str(tmp_path / "net"), "weight_net__frozen": frozen}
    config = small_config(num_epochs=2, warmup_epochs=0, checkpoint__every_epochs=1, **fields)
    with monkeypatch.context() as patched:
        patched.setattr(loop.Board, "add_metrics", killed_after(epoch=0))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    (tmp_path / "net").rename(tmp_path / "moved")
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    kept = cmw.load_weight_net(tmp_path / "run/initial_weight_net.safetensors")
    jax.tree.map(np.testing.assert_array_equal, kept.weight_params, weight_params)
    assert kept.loss_range == (-1.0, 0.5)
    if frozen:
        assert 0 < lines[1]["loss_share_outside_range"] < 1
        assert save_posterior(tmp_path / "run", tmp_path / "p.npy", of_given_labels=True).exists()
    else:
        assert cmw.load_weight_net(tmp_path / "run").loss_range == (
            -1.0,
            max(line["loss_max"] for line in lines),
        )


def test_functions_of_heads_that_no_class_uses_are_not_stored_or_drawn():
    role = SimpleNamespace(functions=lambda params, grid: np.ones((3, len(grid))))
    method = SimpleNamespace(weight_net=role, phase=lambda epoch: SimpleNamespace(weighs=True))
    classes = cmw.MetaClasses(np.array([5.0, 9.0, 9.0]), np.array([0, 0, 1]))
    history = [{"epoch": 0, "loss_min": 0.0, "loss_max": 2.0}]
    arrays = weighting_arrays(method, {}, classes, history) | {"centers": classes.centers}
    assert np.isnan(arrays["functions"]).all(axis=1).tolist() == [False, False, True]
    axes = Figure().subplots()
    drawing.draw_weighting_functions(axes, [arrays, arrays | {"functions": np.ones((3, 200))}])
    lines = [line for line in axes.get_lines() if line.get_linewidth() > 2]
    assert len(lines) == 3 and all(np.all(line.get_ydata() == 1) for line in lines)  # one run has a third one


@pytest.mark.filterwarnings("ignore:the class sizes take only")
def test_a_head_that_no_class_used_is_said(tmp_path):
    """Learned of one class size; of three sizes, seven classes use heads that learned nothing."""
    weight_params = learned(tmp_path / "net")
    fields = {"centers": [9.0] * 3, "loss_range": (0, 1), "provenance": {"meta_class_of_class": [0] * 10}}
    cmw.save_weight_net(tmp_path / "balanced", weight_params, **fields)
    frozen = {"weight_net__init": str(tmp_path / "balanced"), "weight_net__frozen": True}
    with pytest.warns(UserWarning, match="heads for meta-classes 1, 2 had no class where"):
        built(**frozen, data__bias="long_tail_5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(**frozen | {"weight_net__frozen": False}, data__bias="long_tail_5")
        built(**frozen | {"weight_net__init": str(tmp_path / "net")}, data__bias="long_tail_5")


@pytest.mark.filterwarnings("ignore:the class sizes take only")
def test_a_run_whose_classes_are_of_one_size_is_audited_drawn_and_told_of_wherever_its_net_goes(tmp_path):
    """Two of its three heads have no class."""
    alike = {"data__bias": "balanced_subset_100", "num_epochs": 1, "warmup_epochs": 0}
    run = tmp_path / "runs/cmwnet/seed0"
    train(small_config(**alike), run)
    assert len(cmw.find_suspects(run)["id"]) == 100
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert (tmp_path / "report/figures/digits/weighting.png").exists()
    use = {"data__bias": "long_tail_5", "weight_net__init": str(run)}
    with pytest.warns(UserWarning, match="heads for meta-classes 1, 2 had no class"):
        _, frozen = built(**use, weight_net__frozen=True)
    _, longer = built(**use)
    for recipe, expected in ((frozen, [True, False, False]), (longer, [True] * 3)):
        saved = recipe.method.weight_net.save(recipe.state, (0.0, 1.0), 1)
        assert saved.has_class.tolist() == expected


def killed_after(epoch):
    """`Board.add_metrics` of a process that dies before the next epoch has a checkpoint."""

    def add_metrics(board, metrics):
        if metrics["epoch"] > epoch:
            raise KeyboardInterrupt

    return add_metrics


def test_a_net_that_goes_on_learning_knows_the_losses_of_both_runs(tmp_path):
    history = [
        {"epoch": number, "loss_min": low, "loss_max": high}
        for number, low, high in ((0, 0.0, 9.0), (2, 0.5, 2.0), (3, 0.25, 1.0))
    ]  # the first is the warm-up's, from which nothing is learned
    for before, expected in ((None, (0.25, 2.0)), ((0.1, 1.5), (0.1, 2.0)), ((0.5, 3.0), (0.25, 3.0))):
        init = "" if before is None else str(tmp_path / str(before))
        if init:
            learned(init, 1, loss_range=before)
        _, recipe = built(method="mwnet", weight_net__init=init)
        ranges = learned_ranges(recipe.method, history)
        assert ranges == [(0.5, 2.0), (0.25, 1.0)]
        seen = min(low for low, _ in ranges), max(high for _, high in ranges)
        assert recipe.method.weight_net.save(recipe.state, seen, 3).loss_range == expected


def test_a_random_weight_net_is_a_control_here_and_elsewhere(tmp_path):
    control = {"weight_net__frozen": True, "data__bias": BIAS, "num_epochs": 1, "warmup_epochs": 0}
    train(small_config(**control, weight_net__learning_rate=0.0), tmp_path / "first")
    (line,) = (json.loads(line) for line in (tmp_path / "first/metrics.jsonl").open())
    assert "loss_share_outside_range" not in line
    saved = cmw.load_weight_net(tmp_path / "first")
    assert saved.loss_range == (line["loss_min"], line["loss_max"])
    _, recipe = built(method="cmwnet", weight_net__init=str(tmp_path / "first"), weight_net__frozen=True)
    jax.tree.map(np.testing.assert_array_equal, recipe.state.weight_params, saved.weight_params)


def test_the_share_of_losses_outside_of_a_range():
    assert health.share_outside(np.array([[0.0, 1.0], [2.0, 3.0]]), (1.0, 2.5)) == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_meta_classes": 2}, "num_meta_classes is 2, expected 3"),
        ({"hidden": 7}, "hidden is 7, expected 100"),
    ],
)
def test_a_weight_net_of_another_shape_is_refused(fields, message, tmp_path):
    learned(tmp_path / "net", **fields)
    with pytest.raises(cmw.UsageError, match=message):
        built(weight_net__init=str(tmp_path / "net"))


def test_fields_that_say_nothing_together_are_refused(tmp_path):
    with pytest.raises(cmw.UsageError, match="weight_net.init is empty"):
        check_config(small_config(weight_net__frozen=True))
    with pytest.raises(cmw.UsageError, match="weight_net.init is 'x', which erm does not read"):
        check_config(small_config(weight_net__init="x", method="erm"))
    with pytest.raises(cmw.UsageError, match="weight_net.init: .* holds no weight net"):
        built(weight_net__init=str(tmp_path))
