"""A torchvision file in our models computes what torchvision's layers do, by formulas in its layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from jax import lax

from cmwnet_jax.errors import UsageError
from cmwnet_jax.models import MODELS
from cmwnet_jax.models.memory_head import memory_head
from cmwnet_jax.models.pretrained import load_pretrained
from cmwnet_jax.models.resnet import Bottleneck, ResNet, imagenet_stem

CLASSES = 5


def state_dict_of(blocks, seed=0):
    """Random weights with the names and shapes of torchvision's ResNets of bottlenecks."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, out, into, side):
        state[f"{name}.weight"] = rng.normal(size=(out, into, side, side)) * (into * side**2) ** -0.5

    def norm(name, channels):
        for leaf, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            state[f"{name}.{leaf}"] = rng.uniform(low, 1.5, size=channels)
        state[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    into = 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, width = f"layer{stage + 1}.{block}", 64 * 2**stage
            for i, (out, size, side) in enumerate(
                ((width, into, 1), (width, width, 3), (4 * width, width, 1)), 1
            ):
                conv(f"{name}.conv{i}", out, size, side)
                norm(f"{name}.bn{i}", out)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, into, 1)
                norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    state["fc.weight"] = rng.normal(size=(CLASSES, into)) * into**-0.5
    state["fc.bias"] = rng.normal(size=CLASSES)
    return {name: np.asarray(a, np.int64 if a.ndim == 0 else np.float32) for name, a in state.items()}


def in_torch_layout(state, x, blocks):
    """Logits of x [n, 3, height, width], channels first, by the state dict's own names."""

    def conv(name, x, stride=1):
        kernel = state[f"{name}.weight"]
        pad = [(kernel.shape[2] // 2,) * 2] * 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), pad)  # NCHW and OIHW are its own layout

    def norm(name, x):
        mean, var, weight, bias = (
            state[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias

    x = jax.nn.relu(norm("bn1", conv("conv1", x, 2)))
    pads = ((0, 0), (0, 0), (1, 1), (1, 1))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), pads)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = jax.nn.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x)))
            y = jax.nn.relu(norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)))
            y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            if block == 0:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = jax.nn.relu(x + y)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


BLOCKS = (1, 2, 1, 1)


@pytest.fixture(scope="module")
def state():
    return state_dict_of(BLOCKS)


@pytest.fixture(scope="module")
def fresh():
    """A small ResNet of bottlenecks, which has a ResNet-50's names but for the blocks it lacks."""
    model = ResNet(num_classes=CLASSES, stages=BLOCKS, block=Bottleneck, stem=imagenet_stem)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return model, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.25, np.float32), shapes)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_resnet_computes_what_torchvisions_does(suffix, state, fresh, tmp_path):
    """An even and an odd side: they are padded differently where a stride is 2."""
    path = tmp_path / f"weights.{suffix}"
    if suffix == "npz":
        np.savez(path, **state)
    else:
        safetensors.numpy.save_file(state, path)
    model, variables = fresh
    loaded, report = load_pretrained(path, "resnet50", variables)
    images = np.random.default_rng(1).normal(size=(2, 3, 46, 33)).astype(np.float32)
    expected = jax.jit(lambda s, x: in_torch_layout(s, x, BLOCKS))(state, images)
    got = jax.jit(lambda v, x: model.apply(v, x, train=False))(loaded, images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    assert set(report.loaded) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert (report.as_initialised, report.unused) == ((), ())


def test_a_resnet50s_names_are_all_of_torchvisions(tmp_path):
    """The whole architecture: nothing is missing, unexpected or of another shape."""
    model = MODELS["resnet50"](num_classes=CLASSES)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    safetensors.numpy.save_file(state_dict_of((3, 4, 6, 3)), tmp_path / "weights.safetensors")
    loaded, report = load_pretrained(tmp_path / "weights.safetensors", "resnet50", shapes)
    assert report.as_initialised == () and len(report.loaded) == len(jax.tree.leaves(loaded)) == 53 * 5 + 2


def wrapped(state, wrapper, classifier=False):
    """The same network as self-supervised training saves it, with a projection head."""
    kept = {name: array for name, array in state.items() if classifier or not name.startswith("fc.")}
    own = {f"{wrapper}{name.replace('.downsample.', '.shortcut.')}": array for name, array in kept.items()}
    return {**own, **{f"head.{layer}.weight": np.zeros((3, 2048), np.float32) for layer in (0, 2)}}


@pytest.mark.parametrize("wrapper", ["encoder.", "module.backbone."])
def test_a_self_supervised_network_is_read_by_its_inner_names(wrapper, state, fresh, tmp_path):
    np.savez(tmp_path / "plain.npz", **{name: a for name, a in state.items() if not name.startswith("fc.")})
    np.savez(tmp_path / "wrapped.npz", **wrapped(state, wrapper))
    (expected, plain), (got, report) = (
        load_pretrained(tmp_path / name, "resnet50", fresh[1]) for name in ("plain.npz", "wrapped.npz")
    )
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert report == plain._replace(unused=("head.0.weight", "head.2.weight"))
    assert report.as_initialised == ("params/head/bias", "params/head/kernel")


def test_of_two_networks_in_a_file_none_is_taken(state, fresh, tmp_path):
    both = {**wrapped(state, "module.encoder_q."), **wrapped(state, "module.encoder_k.")}
    np.savez(tmp_path / "moco.npz", **both)
    with pytest.raises(UsageError, match="holds 2 networks, .* module.encoder_k. and module.encoder_q."):
        load_pretrained(tmp_path / "moco.npz", "resnet50", fresh[1])


class TinyVGG(nn.Module):
    """VGG's names on 2 channels: a convolution with bias, 7x7 places, and two linear layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3, 3), padding=1, name="features_0")(x)).reshape(len(x), -1)
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(4, name="classifier_0")(x)))


def test_vggs_first_linear_layer_reads_its_features_in_their_order(tmp_path):
    """Torch flattens channels, rows, columns; we rows, columns, channels."""
    rng = np.random.default_rng(0)
    shapes = {"features.0": (2, 3, 3, 3), "classifier.0": (4, 98), "classifier.6": (3, 4)}
    state = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state |= {f"{name}.bias": rng.normal(size=shape[0]).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "weights.npz", **state)
    images = rng.normal(size=(2, 3, 7, 7)).astype(np.float32)
    x = lax.conv_general_dilated(images, state["features.0.weight"], (1, 1), [(1, 1)] * 2)
    x = jax.nn.relu(x + state["features.0.bias"][:, None, None]).reshape(2, -1)
    x = jax.nn.relu(x @ state["classifier.0.weight"].T + state["classifier.0.bias"])
    expected = x @ state["classifier.6.weight"].T + state["classifier.6.bias"]
    variables = jax.eval_shape(lambda: TinyVGG().init(jax.random.key(0), jnp.zeros((1, 7, 7, 3))))
    loaded, _ = load_pretrained(tmp_path / "weights.npz", "vgg16", variables)
    np.testing.assert_allclose(
        TinyVGG().apply(loaded, images.transpose(0, 2, 3, 1)), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "vgg19_bn", "bilinear_cnn"])
def test_vggs_layers_have_torchvisions_numbers(name):
    """Which of `features.0`, `features.1`, ... are convolutions: all but ReLUs, normalisations and poolings."""
    model = MODELS[name](num_classes=CLASSES)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    batch_norm, deep = name.endswith("_bn"), name.startswith("vgg19")
    kinds = []
    for count in (2, 2, 4, 4, 4) if deep else (2, 2, 3, 3, 3):
        kinds += ["conv", "norm", "relu"] * count if batch_norm else ["conv", "relu"] * count
        kinds += ["pool"]
    numbered = {f"features_{i}": kind for i, kind in enumerate(kinds) if kind in ("conv", "norm")}
    found = {layer: value for layer, value in shapes["params"].items() if layer.startswith("features_")}
    assert {layer: "conv" if "kernel" in value else "norm" for layer, value in found.items()} == numbered


def test_a_head_of_other_classes_stays_as_it_was(state, fresh, tmp_path):
    _, variables = fresh
    np.savez(tmp_path / "other.npz", **{**state, "fc.weight": np.ones((7, 2048)), "fc.bias": np.ones(7)})
    np.savez(tmp_path / "without.npz", **{name: a for name, a in state.items() if not name.startswith("fc.")})
    for file, unused in (("other.npz", ("fc.bias", "fc.weight")), ("without.npz", ())):
        loaded, report = load_pretrained(tmp_path / file, "resnet50", variables)
        assert report.as_initialised == ("params/head/bias", "params/head/kernel")
        assert report.unused == unused
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(loaded["params"]["head"][leaf], variables["params"]["head"][leaf])
        changed = loaded["params"]["layer4_0"]["conv3"]["kernel"]
        np.testing.assert_array_equal(changed, state["layer4.0.conv3.weight"].transpose(2, 3, 1, 0))


def test_oltrs_memory_is_not_in_a_file(state, fresh, tmp_path):
    model, variables = fresh
    model = model.clone(make_head=memory_head)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    memory = {"memory": shapes["params"]["memory"]}
    np.savez(tmp_path / "weights.npz", **state)
    with_memory = {**variables, "params": variables["params"] | memory}
    loaded, report = load_pretrained(tmp_path / "weights.npz", "resnet50", with_memory)
    names = ("centroids", "kernel", "selector/bias", "selector/kernel")
    assert report.as_initialised == tuple(f"params/memory/{name}" for name in names) and not report.unused
    assert loaded["params"]["memory"] == memory["memory"]
    np.testing.assert_array_equal(loaded["params"]["head"]["bias"], state["fc.bias"])


def test_a_bilinear_cnn_takes_a_vgg16s_convolutions(tmp_path):
    shapes = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256), (512, 256)]
    shapes += [(512, 512)] * 5
    state = {
        "classifier.0.bias": np.zeros(4096, np.float32),
        "classifier.6.weight": np.zeros((1000, 2), np.float32),
    }
    for i, (out, into) in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), shapes, strict=True):
        state[f"features.{i}.weight"] = np.full((out, into, 3, 3), i, np.float32)
        state[f"features.{i}.bias"] = np.full(out, i, np.float32)
    safetensors.numpy.save_file(state, tmp_path / "vgg16.safetensors")
    model = MODELS["bilinear_cnn"](num_classes=2)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    loaded, report = load_pretrained(tmp_path / "vgg16.safetensors", "bilinear_cnn", variables)
    assert float(loaded["params"]["features_26"]["kernel"][2, 1, 0, 3]) == 26
    assert report.as_initialised == ("params/head/bias", "params/head/kernel")
    assert report.unused == ("classifier.0.bias", "classifier.6.weight")


def test_what_does_not_fit_is_listed(state, fresh, tmp_path):
    state = dict(state)
    del state["layer2.1.bn3.running_mean"]
    state["layer2.2.conv1.weight"] = np.zeros((128, 512, 1, 1), np.float32)
    state["conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    np.savez(tmp_path / "weights.npz", **state)
    with pytest.raises(UsageError) as caught:
        load_pretrained(tmp_path / "weights.npz", "resnet50", fresh[1])
    for part in (
        "missing: layer2.1.bn3.running_mean",
        "unexpected: layer2.2.conv1.weight",
        "misshaped, in Flax's layout: conv1.weight (3x3x3x64 instead of 7x7x3x64)",
    ):
        assert part in str(caught.value)


def test_a_file_that_cannot_be_used_says_why(fresh, tmp_path):
    for name, content, message in (
        ("weights.pth", b"", "is a pickle.*safetensors.torch.save_file.*'weights.safetensors'"),
        ("weights.h5", b"", "ends in '.h5', expected a .safetensors or .npz file"),
        ("weights.safetensors", b"1234567890", "cannot be read"),
        ("weights.npz", b"PK\x03\x04 and so on", "cannot be read"),
        ("missing.npz", None, "No such file"),
        ("missing.safetensors", None, "No such file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_pretrained(tmp_path / name, "resnet50", fresh[1])
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        load_pretrained(tmp_path / "weights.npz", "resnet51", fresh[1])
