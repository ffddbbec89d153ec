"""Weight nets as files."""

import jax
import numpy as np
import pytest

import cmwnet_jax as cmw
from cmwnet_jax.transfer import saved
from cmwnet_jax.transfer.portable import write_file

K = 3


def weight_params():
    return cmw.WeightNet(K, hidden=11).init(jax.random.key(3), np.ones(1), np.zeros(1, int))


def with_array(layer, name, array):
    """The parameters with one array in another's place, or one too many."""
    params = jax.tree.map(np.asarray, weight_params()["params"])
    return {"params": {**params, layer: {**params[layer], name: array}}}


def save(path, **fields):
    fields = {"centers": [10.0, 50, 900], "loss_range": (0.25, 8), "provenance": {"dataset": "d"}} | fields
    cmw.save_weight_net(path, fields.pop("weight_params", None) or weight_params(), **fields)


def test_a_weight_net_comes_back_with_all_that_its_use_needs(tmp_path):
    save(tmp_path / "net")
    loaded = cmw.load_weight_net(tmp_path / "net")
    jax.tree.map(np.testing.assert_array_equal, loaded.weight_params, weight_params())
    np.testing.assert_array_equal(loaded.centers, [10, 50, 900])
    assert loaded.loss_range == (0.25, 8.0)
    assert loaded.provenance == {"dataset": "d"}
    losses, meta_class = np.array([0.1, 2.0], np.float32), np.array([0, 2])
    expected = cmw.WeightNet(K, hidden=11).apply(weight_params(), losses, meta_class)
    got = loaded.weight_net.apply(loaded.weight_params, losses, meta_class)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"centers": [10, 50]}, r"centers is \[10.0, 50.0\], expected 3 in ascending order"),
        ({"centers": [10, 50, 20]}, "in ascending order"),
        ({"loss_range": (0.0, float("nan"))}, "expected two finite numbers"),
        ({"loss_range": (2.0, 1.0)}, "the lower first"),
        ({"weight_params": {"w": np.ones(3)}}, "not a WeightNet's"),
        (
            {"weight_params": with_array("heads", "kernel", np.ones((11, 2), np.float32))},
            r"3 heads and 11 hidden .*\(params/heads/kernel: found \(11, 2\) .*, expected \(11, 3\) float32\)",
        ),
        (
            {"weight_params": with_array("shared", "bias", np.ones(9, np.float32))},
            r"params/heads/kernel: found \(11, 3\).*; params/shared/kernel: .* expected \(1, 9\)",
        ),
        ({"weight_params": with_array("shared", "bias", np.ones((11, 1)))}, "not a WeightNet's"),
        (
            {"weight_params": with_array("shared", "kernel", np.ones((1, 11), np.int32))},
            r"params/shared/kernel: found \(1, 11\) int32, expected \(1, 11\) float32",
        ),
        (
            {"weight_params": with_array("shared", "scale", np.ones(11, np.float32))},
            "params/shared/scale: found .* expected nothing",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(fields, message, tmp_path):
    with pytest.raises(cmw.UsageError, match=message):
        save(tmp_path / "net", **fields)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine").write_text("")
    with pytest.raises(cmw.UsageError, match="which exists, expected a new folder"):
        save(tmp_path / "net")
    assert (tmp_path / "net" / "mine").exists()


def test_a_damaged_or_missing_weight_net_is_named(tmp_path):
    with pytest.raises(cmw.UsageError, match="holds no weight net"):
        cmw.load_weight_net(tmp_path)
    save(tmp_path / "net")
    file = max((p for p in (tmp_path / "net").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(cmw.UsageError, match="a weight net that (is damaged|cannot be read)"):
        cmw.load_weight_net(tmp_path / "net")


def test_a_weight_net_of_a_newer_format_is_not_guessed_at(tmp_path, monkeypatch):
    """As folder and as file; what else a newer format may have changed is not looked at first."""
    monkeypatch.setattr(saved, "_FORMAT", 2)
    save(tmp_path / "net")
    write_file(tmp_path / "net.safetensors", cmw.load_weight_net(tmp_path / "net"))
    monkeypatch.undo()
    for name in ("net", "net.safetensors"):
        with pytest.raises(cmw.UsageError, match=rf"{name}' is a weight net of format 2, expected 1: .* newer"):
            cmw.load_weight_net(tmp_path / name)
