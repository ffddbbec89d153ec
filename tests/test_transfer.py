"""Weight nets as files."""

import functools
import os
import re
import shutil

import jax
import numpy as np
import pytest
from test_checkpoint import state

import cmwnet_jax as cmw
from cmwnet_jax.train.checkpoint import Checkpoints
from cmwnet_jax.transfer import orbax_folder, saved
from cmwnet_jax.transfer.card import facts, weight_rows
from cmwnet_jax.transfer.portable import read_file, write_file

K = 3


@functools.cache
def weight_params():
    init = jax.jit(cmw.WeightNet(K, hidden=11).init)
    return jax.device_get(init(jax.random.key(3), np.ones(1), np.zeros(1, int)))


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


@pytest.mark.parametrize("name", ["net", "net.safetensors"])
def test_half_precision_is_saved_as_float32(name, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), weight_params())
    save(tmp_path / name, weight_params=half)
    read = cmw.load_weight_net(tmp_path / name).weight_params
    jax.tree.map(np.testing.assert_array_equal, read, jax.tree.map(lambda x: x.astype(np.float32), half))
    assert {x.dtype for x in jax.tree.leaves(read)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("centers", "provenance", "expected"),
    [
        ([600.0, 600.0, 600.0], {}, [True, False, False]),
        ([5.0, 600.0, 600.0], {}, [True, True, False]),
        ([np.nan] * 3, {}, [True] * 3),
        ([5.0, 600.0, 600.0], {"meta_class_of_class": [0, 1, 1]}, [True, True, False]),
        ([np.nan] * 3, {"meta_class_of_class": [0, 0]}, [True, False, False]),
        ([5.0, 600.0, 600.0], {"meta_class_of_class": [0, 1, 1], "init": "zoo:net"}, [True] * 3),
        ([5.0, 600.0, 600.0], {"meta_class_of_class": [0, 1, 1], "meta_classes": "anew"}, [True] * 3),
        ([5.0, 6.0, 7.0], {"meta_class_of_class": "small"}, [True] * 3),
        ([5.0, 6.0, 6.0], {"has_class": [True, True, False], "init": "zoo:net"}, [True, True, False]),
    ],
)
def test_heads_that_no_class_used_are_known_and_marked(centers, provenance, expected):
    net = saved.SavedWeightNet(weight_params(), np.array(centers), (0.0, 9.0), provenance)
    assert net.has_class.tolist() == expected
    heads, rows = weight_rows(net)
    assert ["no class" in head for head in heads[1:]] == [not has for has in expected]
    assert [cell.startswith("(") for cell in rows[0][1:]] == [not has for has in expected]
    assert facts(net)["class sizes (centres)"].count("no class") == 3 - sum(expected)
    assert not any("600" in head for head in heads[1:] if "no class" in head)


def test_a_card_takes_long_lists_of_anything():
    provenance = {"runs": [{"seed": k} for k in range(25)], "seeds": list(range(25))}
    found = facts(saved.SavedWeightNet(weight_params(), np.array([1.0, 2, 3]), (0.0, 9.0), provenance))
    assert (found["runs"], found["seeds"]) == ("25 entries, the first seed 0", "25 numbers from 0 to 24")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"centers": [10, 50]}, r"centers is \[10.0, 50.0\], expected 3 in ascending order"),
        ({"centers": [10, 50, 20]}, "in ascending order"),
        ({"loss_range": (0.0, float("nan"))}, "expected two finite numbers"),
        ({"loss_range": (2.0, 1.0)}, "the lower first"),
        ({"centers": [900, float("nan"), 10]}, r"centers is \[900.0, nan, 10.0\], expected 3 in ascending"),
        ({"centers": [10, 50, float("inf")]}, "in ascending order"),
        ({"centers": [-1, 50, 60]}, "in ascending order"),
        ({"centers": "small"}, "centers is 'small' and loss_range .*, expected K numbers and two of them"),
        ({"loss_range": (1.0,)}, "expected K numbers and two of them"),
        ({"provenance": ["d"]}, r"provenance is \['d'\], expected what JSON can hold"),
        (
            {"provenance": {"seeds": {1, 2}}},
            r"provenance is \{'seeds': \{1, 2\}\}, expected what JSON can hold",
        ),
        (
            {"weight_params": jax.tree.map(lambda a: a * np.nan, weight_params())},
            "have NaN or .* params/heads/bias",
        ),
        (
            {"weight_params": with_array("heads", "bias", np.array([0, np.inf, 0], np.float32))},
            "weight_params have NaN or infinite numbers in params/heads/bias: take",
        ),
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


@pytest.mark.parametrize(
    "name", ["", "gs://bucket/net", "s3://bucket/net", "a\0b", "x" * 300, "file", "file/net"]
)
def test_where_nothing_can_be_written_one_sentence_says_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for use in (save, cmw.load_weight_net):
        if use is save or not name.startswith("file"):
            with pytest.raises(cmw.UsageError, match=r"^path is .*expected") as raised:
                use(name)
            assert "\n" not in str(raised.value)
    with pytest.raises(cmw.UsageError, match=r"^path is '/proc/net', which cannot be written"):
        save("/proc/net")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("name", ["lr=[0.1]", "[!a]*?{b,c}", "a\\b", "gs:", "a\nb", "deep/[er]"])
def test_a_folder_may_have_any_name(name, tmp_path):
    save(tmp_path / name / name)
    loaded = cmw.load_weight_net(tmp_path / name / name)
    jax.tree.map(np.testing.assert_array_equal, loaded.weight_params, weight_params())
    save(tmp_path / "checkpoints" / "5" / "weight_net")
    cmw.load_weight_net(tmp_path / "checkpoints" / "5" / "weight_net")
    assert list((tmp_path / name).iterdir()) == [tmp_path / name / name.split("/")[0]]  # nothing beside it


def test_arrays_that_were_not_written_are_noticed(tmp_path, monkeypatch):
    """As Orbax does where it takes the folder's path for a pattern."""
    monkeypatch.setattr(orbax_folder, "_PLAIN", re.compile(".*"))
    with pytest.raises(cmw.UsageError, match="Orbax has written no arrays"):
        save(tmp_path / "lr=[0.1]" / "net")
    assert list((tmp_path / "lr=[0.1]").iterdir()) == []


def test_what_holds_no_weight_net_is_named(tmp_path):
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with Checkpoints(tmp_path / "without" / "checkpoints", 1) as checkpoints:
        checkpoints.save(3, state())
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, problem in (
        ("file.txt", "file.txt ends in '.txt', expected .safetensors or .npz"),
        ("missing", "missing', which does not exist, expected a folder of save_weight_net"),
        ("empty", "empty', which holds no weight net"),
        ("run", "run', which holds no weight net"),
        ("without", "without', which holds no weight net"),
        ("without/checkpoints/3", "3', which holds no weight net"),
        ("without/checkpoints/3/state", "state', which holds no weight net"),
    ):
        with pytest.raises(cmw.UsageError, match=problem) as raised:
            cmw.load_weight_net(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(cmw.UsageError, match="a named pipe, expected a regular file"):
        read_file(tmp_path / "pipe.safetensors")


def with_a_bit_flipped(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)


def test_whatever_bit_of_a_folder_flips_is_noticed(tmp_path):
    save(tmp_path / "net")
    rng = np.random.default_rng(0)
    files = [path for path in (tmp_path / "net").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        for _ in range(5):
            with_a_bit_flipped(file, rng)
            with pytest.raises(cmw.UsageError, match="a weight net that is damaged"):
                cmw.load_weight_net(tmp_path / "net")
        file.write_bytes(content)
    cmw.load_weight_net(tmp_path / "net")


def test_a_folder_of_an_earlier_version_has_checksums_of_its_arrays_alone(tmp_path):
    save(tmp_path / "net")
    (tmp_path / "net" / "checksums.json").unlink()
    assert cmw.load_weight_net(tmp_path / "net").provenance == {"dataset": "d"}
    file = max((p for p in (tmp_path / "net").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(cmw.UsageError, match="a weight net that (is damaged|cannot be read)"):
        cmw.load_weight_net(tmp_path / "net")


def test_an_older_checkpoints_weight_net_under_a_newer_number_is_not_taken_for_the_newest(tmp_path):
    save(tmp_path / "net")
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        for number in (4, 6):
            checkpoints.save(number, state(number), cmw.load_weight_net(tmp_path / "net"))
    assert cmw.load_weight_net(tmp_path).num_meta_classes == K
    shutil.copytree(tmp_path / "checkpoints" / "4", tmp_path / "checkpoints" / "8")
    with pytest.raises(cmw.UsageError, match=r"8/weight_net', .* damaged \(weight_net is of steps_done 4\)"):
        cmw.load_weight_net(tmp_path)
    cmw.load_weight_net(tmp_path / "checkpoints" / "6")
    shutil.copytree(tmp_path / "checkpoints" / "6" / "weight_net", tmp_path / "2024" / "weight_net")
    cmw.load_weight_net(tmp_path / "2024" / "weight_net")  # elsewhere, a number is just a name
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    (tmp_path / "checkpoints" / "9").touch()
    assert cmw.load_weight_net(tmp_path).num_meta_classes == K


def test_a_weight_net_of_a_newer_format_is_not_guessed_at(tmp_path, monkeypatch):
    """As folder and as file; what else a newer format may have changed is not looked at first."""
    monkeypatch.setattr(saved, "_FORMAT", 2)
    save(tmp_path / "net")
    write_file(tmp_path / "net.safetensors", cmw.load_weight_net(tmp_path / "net"))
    monkeypatch.undo()
    for name in ("net", "net.safetensors"):
        with pytest.raises(cmw.UsageError, match=rf"{name}' is a weight net of format 2, expected 1: .* newer"):
            cmw.load_weight_net(tmp_path / name)
