"""Weight nets as one file, and as a command."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from test_train import run_here
from test_transfer import save, weight_params

import cmwnet_jax as cmw
from cmwnet_jax.transfer.portable import read_file, write_file

PUBLISHED = os.environ.get("CMWNET_PUBLISHED_WEIGHT_NET", "")
LOSSES = [0, 0.25, 0.5, 1, 2, 4, 8]
LISTED = {
    "small": [0.933, 0.940, 0.947, 0.959, 0.977, 0.996, 1.000],
    "moderate": [0.488, 0.476, 0.467, 0.466, 0.458, 0.400, 0.296],
    "large": [0.819, 0.755, 0.666, 0.424, 0.102, 0.007, 0.000],
}


def published_layout(path, seed=0):
    """Random numbers under the published names; what they compute, in plain numpy, [3 heads, losses]."""
    rng = np.random.default_rng(seed)
    arrays = {"feature.layer.0.weight": rng.normal(size=(100, 1)), "feature.layer.0.bias": rng.normal(size=100)}
    for head in range(3):
        arrays[f"classfier.layers.{head}.0.weight"] = rng.normal(size=(1, 100)) / 10
        arrays[f"classfier.layers.{head}.0.bias"] = rng.normal(size=1)
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})
    hidden = np.maximum(arrays["feature.layer.0.weight"] * LOSSES + arrays["feature.layer.0.bias"][:, None], 0)
    logits = [
        arrays[f"classfier.layers.{k}.0.weight"] @ hidden + arrays[f"classfier.layers.{k}.0.bias"]
        for k in range(3)
    ]
    return 1 / (1 + np.exp(-np.concatenate(logits)))


def test_a_file_holds_all_that_a_folder_does(tmp_path):
    save(tmp_path / "net", provenance={"dataset": "d", "normalize": "sum"})
    folder = cmw.load_weight_net(tmp_path / "net")
    write_file(tmp_path / "deep" / "net.safetensors", folder)
    file = cmw.load_weight_net(tmp_path / "deep" / "net.safetensors")
    jax.tree.map(np.testing.assert_array_equal, file.weight_params, weight_params())
    np.testing.assert_array_equal(file.centers, folder.centers)
    assert (file.loss_range, file.provenance) == (folder.loss_range, folder.provenance)
    assert (tmp_path / "deep" / "net.safetensors").stat().st_size < 2000
    (tmp_path / "mine").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("mine", "deep/net.safetensors")}
    assert len(modes) == 1  # others may read it as they may read any file of mine
    with pytest.raises(cmw.UsageError, match="which exists"):
        write_file(tmp_path / "deep" / "net.safetensors", folder)
    with pytest.raises(cmw.UsageError, match="expected a name that ends in .safetensors"):
        write_file(tmp_path / "net.pkl", folder)


def test_a_file_of_the_published_names_gets_its_heads_in_ascending_order(tmp_path):
    small, moderate, large = 1, 2, 0
    expected = published_layout(tmp_path / "published.npz")
    saved = cmw.load_weight_net(tmp_path / "published.npz")
    np.testing.assert_allclose(saved.functions(LOSSES), expected[[small, moderate, large]], atol=1e-6)
    assert (saved.num_meta_classes, saved.hidden) == (3, 100)
    assert np.isnan(saved.centers).all()
    other = read_file(tmp_path / "published.npz", heads=(0, 1, 2))
    np.testing.assert_allclose(other.functions(LOSSES), expected, atol=1e-6)
    write_file(tmp_path / "net.safetensors", saved)
    assert np.isnan(cmw.load_weight_net(tmp_path / "net.safetensors").centers).all()
    cmw.save_weight_net(
        tmp_path / "net", saved.weight_params, centers=saved.centers, loss_range=saved.loss_range
    )
    assert np.isnan(cmw.load_weight_net(tmp_path / "net").centers).all()


@pytest.mark.skipif(not Path(PUBLISHED).is_file(), reason="CMWNET_PUBLISHED_WEIGHT_NET names no file")
def test_the_published_weight_net_computes_what_is_listed_of_it():
    saved = read_file(PUBLISHED)
    assert sum(leaf.size for leaf in jax.tree.leaves(saved.weight_params)) == 503
    np.testing.assert_allclose(saved.functions(LOSSES), list(LISTED.values()), atol=1e-3)


def test_files_that_hold_no_weight_net_are_named(tmp_path):
    published_layout(tmp_path / "published.npz")
    with pytest.raises(cmw.UsageError, match="each of its heads once"):
        read_file(tmp_path / "published.npz", heads=(0, 1))
    np.savez(tmp_path / "other.npz", w=np.ones(3))
    with pytest.raises(cmw.UsageError, match=r"has the arrays w, expected classfier"):
        read_file(tmp_path / "other.npz")
    (tmp_path / "net.pth").write_bytes(b"\x80")
    with pytest.raises(cmw.UsageError, match="pickles .* are not read"):
        cmw.load_weight_net(tmp_path / "net.pth")
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "plain.safetensors")
    for name in ("plain.safetensors", "missing.safetensors"):
        with pytest.raises(cmw.UsageError, match="holds no weight net that can be read"):
            read_file(tmp_path / name)
    save(tmp_path / "net")
    write_file(tmp_path / "net.safetensors", cmw.load_weight_net(tmp_path / "net"))
    with safetensors.safe_open(tmp_path / "net.safetensors", framework="numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays["params/shared/bias"] = arrays["params/shared/bias"][:5]
    safetensors.numpy.save_file(arrays, tmp_path / "cut.safetensors", header)
    with pytest.raises(cmw.UsageError, match=r"cut.safetensors: .* 3 heads and 5 hidden .*params/heads/kernel"):
        read_file(tmp_path / "cut.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:20])
    with pytest.raises(cmw.UsageError, match="holds no weight net that can be read"):
        cmw.load_weight_net(tmp_path / "half.safetensors")


def test_whatever_bit_of_a_file_flips_is_noticed(tmp_path):
    save(tmp_path / "net")
    write_file(tmp_path / "net.safetensors", cmw.load_weight_net(tmp_path / "net"))
    content = (tmp_path / "net.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        changed = bytes([content[place] ^ 1 << rng.integers(8)])
        (tmp_path / "net.safetensors").write_bytes(content[:place] + changed + content[place + 1 :])
        with pytest.raises(cmw.UsageError) as raised:
            read_file(tmp_path / "net.safetensors")
        assert "net.safetensors" in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"num_meta_classes": 5}, "old.safetensors: num_meta_classes is 5, but the weight net has 3 heads"),
        ({"centers": [10.0, 50.0]}, r"centers is \[10.0, 50.0\], expected 3 in ascending order"),
        ({"centers": [900.0, 50.0, 10.0]}, "in ascending order"),
        ({"centers": [900.0, None, 10.0]}, "in ascending order"),
        ({"centers": "small"}, "what it says of itself cannot be read"),
        ({"centers": {"a": 1}}, "what it says of itself cannot be read"),
        ({"loss_range": [1.0]}, "what it says of itself cannot be read"),
        ({"loss_range": [0.0, None]}, "what it says of itself cannot be read"),
        ({"loss_range": [8.0, 1.0]}, "the lower first"),
        ({"provenance": [1, 2]}, "what it says of itself cannot be read"),
        ({"params/heads/bias": [0.0, float("nan"), 0.0]}, "NaN or infinite numbers in params/heads/bias"),
        ({"params/shared/kernel": [[float("-inf")] * 11]}, "NaN or infinite numbers in params/shared/kernel"),
        ({"params/shared/kernel": [[0.0] * 10]}, "weight_params do not fit each other"),
    ],
)
def test_files_of_earlier_versions_load_where_their_parts_fit(changes, message, tmp_path):
    """They have no checksum, as if somebody had written them by hand."""
    arrays = traverse_util.flatten_dict(jax.tree.map(np.asarray, weight_params()), sep="/")
    header = {"format": 1, "num_meta_classes": 3, "centers": [10.0, 50.0, 900.0], "loss_range": [0.25, 8.0]}
    header["provenance"] = {"dataset": "d"}
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = np.array(value, np.float32)
        else:
            header[name] = value
    safetensors.numpy.save_file(arrays, tmp_path / "old.safetensors", {"cmwnet_jax": json.dumps(header)})
    if message is None:
        assert cmw.load_weight_net(tmp_path / "old.safetensors").provenance == {"dataset": "d"}
        return
    with pytest.raises(cmw.UsageError, match=message) as raised:
        cmw.load_weight_net(tmp_path / "old.safetensors")
    assert "\n" not in str(raised.value)


def test_the_command_shows_exports_and_imports(tmp_path):
    published_layout(tmp_path / "published.npz")
    commands = [
        ["import", f"{tmp_path / 'published.npz'}", f"--output={tmp_path / 'net'}"],
        ["export", f"{tmp_path / 'net'}", f"--output={tmp_path / 'net.safetensors'}"],
        ["show", f"{tmp_path / 'net.safetensors'}", f"--picture={tmp_path / 'net.png'}"],
        ["shoe", f"{tmp_path / 'net'}"],
    ]
    *good, wrong = run_here(commands, module="cmwnet_jax.transfer")
    for done, said in zip(good, ("written to", "written to", "losses learned from"), strict=True):
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert wrong.returncode == 2
    assert "did you mean 'show'" in wrong.stderr
