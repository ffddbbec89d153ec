"""Every classifier has the published number of parameters, the shared fields, and starts as it should."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.errors import UsageError
from cmwnet_jax.models import INPUTS, MODELS, heads, layers, model_fields
from cmwnet_jax.models.bilinear_cnn import bilinear_pool
from cmwnet_jax.models.heads import cosine_head, no_head
from cmwnet_jax.models.preact_resnet import PreActBlock
from cmwnet_jax.models.resnet import BasicBlock, Bottleneck, ResNet, cifar_stem, imagenet_stem
from cmwnet_jax.models.resnet_cifar import ResNetCifar, projected, zero_padded
from cmwnet_jax.models.wide_resnet import WideResNet

PARTIAL_LABELS = {"hidden": (300, 301, 302, 303)}

# Numbers of torchvision (resnet18/34/50, vgg16, vgg16_bn, vgg19_bn), of timm (inception_resnet_v2) and of the
# usual CIFAR implementations; the others were added up by hand.
PARAMETERS = {
    "bilinear_cnn": (200, 224, 14_714_688 + 512**2 * 200 + 200),
    "inception_resnet_v2": (1000, 299, 55_843_464),
    "mlp": (
        10,
        28,
        784 * 300 + 300 * 301 + 301 * 302 + 302 * 303 + 2 * (300 + 301 + 302 + 303) + 303 * 10 + 10,
    ),
    "preact_resnet18": (10, 32, 11_171_274),
    "resnet10": (1000, 224, 5_418_792),
    "resnet10_cifar": (10, 32, 5_418_792 - 49 * 192 + 9 * 192 - 513_000 + 5_130),
    "resnet18": (1000, 224, 11_689_512),
    "resnet18_cifar": (10, 32, 11_173_962),
    "resnet20": (10, 32, 269_722),
    "resnet32": (10, 32, 464_154),
    "resnet32_projection": (10, 32, 464_154 + 16 * 32 + 64 + 32 * 64 + 128),
    "resnet34": (1000, 224, 21_797_672),
    "resnet34_cifar": (10, 32, 21_282_122),
    "resnet34_cifar_unpadded": (10, 32, 21_282_122),
    "resnet50": (1000, 224, 25_557_032),
    "resnet50_cifar": (10, 32, 23_520_842),
    "resnet56": (10, 32, 853_018),
    "small_cnn": (10, 32, 162_994),
    "vgg16": (1000, 224, 138_357_544),
    "vgg16_bn": (1000, 224, 138_365_992),
    "vgg16_cifar": (10, 32, 15_001_418 - 2 * (4224 + 512)),  # Keras counts running statistics, too
    "vgg19_bn": (1000, 64, 143_678_248),
    "wide_resnet28_2": (10, 32, 1_467_610),
    "wide_resnet28_8": (100, 32, 23_354_842 + 90 * 513),
    "wide_resnet28_10": (10, 32, 36_479_194),
}


def variables_of(model, images):
    """`init` as the launcher calls it, of an example's shape; with a generator that compiles quickly."""
    return model.init(jax.random.key(0, impl="unsafe_rbg"), images[:1], train=False)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def size_of(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


OF_IMAGES = [name for name in MODELS if "images" in INPUTS.get(name, ("images",))]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_parameters_are_as_many_as_published_and_only_they_and_logits_are_float32(name):
    """Shapes only, nothing is computed: the model of the size that was published, computing in bfloat16."""
    classes, side, published = PARAMETERS[name]
    own = PARTIAL_LABELS if name == "mlp" else {}
    model = MODELS[name](num_classes=classes, dtype=jnp.bfloat16, **own)
    images = jnp.zeros((2, side, side, 1 if name == "mlp" else 3))
    variables = jax.eval_shape(lambda: variables_of(model, images))
    assert size_of(variables["params"]) == published
    assert set(variables) <= {"params", "batch_stats"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def forward(variables):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    program, (logits, state) = jax.make_jaxpr(forward, return_shape=True)(variables)
    assert logits.shape == (2, classes) and logits.dtype == jnp.float32
    shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (state, variables)]
    assert shapes[0] == [shape for shape in shapes[1][: len(shapes[0])]]  # running statistics come first
    operation = "dot_general" if name == "mlp" else "conv_general_dilated"
    computed = [line for line in str(program).splitlines() if f"= {operation}[" in line]
    assert computed
    computed = computed[:-1] if name == "mlp" else computed  # but for the head
    assert all(":bf16[" in line.split("=")[0] for line in computed)


# One of each file, as small as it gets: a constructor, pixels a side, how far the first loss may be off log C.
SMALL = {
    "mlp": (functools.partial(MODELS["mlp"], **PARTIAL_LABELS), 8, 1.0),
    "small_cnn": (MODELS["small_cnn"], 16, 0.5),
    "resnet_cifar": (functools.partial(ResNetCifar, depth=8, shortcut=zero_padded), 16, 0.5),
    "resnet_cifar_projected": (functools.partial(ResNetCifar, depth=8, shortcut=projected), 16, 0.5),
    "preact_resnet": (MODELS["preact_resnet18"], 16, 0.5),
    "resnet_basic": (functools.partial(ResNet, stages=(1, 1), block=BasicBlock, stem=imagenet_stem), 64, 0.5),
    "resnet_bottleneck": (
        functools.partial(ResNet, stages=(1, 1), block=Bottleneck, stem=cifar_stem),
        16,
        0.5,
    ),
    "wide_resnet": (functools.partial(WideResNet, depth=10, widen=2), 16, 0.5),
    "bilinear_cnn": (MODELS["bilinear_cnn"], 32, 0.5),
}
LARGE = {name: (MODELS[name], side, 0.5) for name, side in (("inception_resnet_v2", 107), ("resnet50", 64))}
# Behind dropout and layers of N(0, 0.01^2), VGG's first logits spread further: 0.59 off on this batch.
LARGE |= {"vgg16_bn": (MODELS["vgg16_bn"], 32, 1.0), "wide_resnet28_10": (MODELS["wide_resnet28_10"], 16, 0.5)}


def first_gradient(make, side):
    """Loss and gradients of the first batch, in train mode."""
    model = make(num_classes=10)
    images = noise(8, side, side, 3)
    variables = jax.jit(lambda: variables_of(model, images))()

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        stats = {name: value for name, value in variables.items() if name != "params"}
        logits, _ = model.apply(
            {"params": params, **stats}, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return jnp.mean(cross_entropy(logits, jnp.arange(8)))

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(variables["params"]))


def check_first_gradient(make, side, within):
    loss, gradients = first_gradient(make, side)
    assert abs(loss - math.log(10)) < within
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), name
        # A bias before a normalisation moves nothing.
        assert np.any(leaf != 0) or ("features_" in name and "bias" in name), name


@pytest.mark.parametrize("name", SMALL)
def test_the_first_loss_is_near_log_c_and_every_parameter_has_a_finite_gradient(name):
    check_first_gradient(*SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_start_alike(name):
    check_first_gradient(*LARGE[name])


def test_normalisation_over_devices_is_that_of_the_whole_batch():
    """Four devices with a quarter each, against one, logits and running statistics."""
    make = functools.partial(ResNetCifar, num_classes=10, depth=8, shortcut=projected)
    images = noise(8, 8, 8, 3)
    variables = jax.jit(lambda: variables_of(make(), images))()

    def forward(axis_name, images):
        return make(axis_name=axis_name).apply(variables, images, train=True, mutable=["batch_stats"])

    expected, stats = jax.jit(functools.partial(forward, None))(images)
    parts = images.reshape(4, 2, 8, 8, 3)
    got, parts_stats = jax.pmap(functools.partial(forward, "i"), axis_name="i")(parts)
    np.testing.assert_allclose(got.reshape(8, 10), expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-5), parts_stats, stats)
    apart, _ = jax.jit(jax.vmap(functools.partial(forward, None)))(parts)
    assert np.abs(apart.reshape(8, 10) - expected).max() > 0.01


@pytest.mark.slow
def test_dropout_draws_from_its_key_in_train_mode_only():
    model, images = MODELS["vgg16"](num_classes=3), jnp.ones((1, 32, 32, 3))
    variables = variables_of(model, images)
    apply = jax.jit(
        lambda key, train: model.apply(variables, images, train=train, rngs={"dropout": jax.random.key(key)}),
        static_argnames="train",
    )
    assert np.any(apply(0, train=True) != apply(1, train=True))
    assert np.all(apply(0, train=False) == apply(1, train=False))


def test_the_cosine_head_is_scaled_cosines():
    model = MODELS["mlp"](num_classes=4, hidden=(16,), batch_norm=False, make_head=cosine_head(30.0))
    images = noise(3, 6)
    params = jax.device_get(jax.jit(lambda: variables_of(model, images))()["params"])
    hidden = np.maximum(images @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 0)
    vectors = np.asarray(params["CosineHead_0"]["kernel"])
    lengths = np.linalg.norm(hidden, axis=1)[:, None] * np.linalg.norm(vectors, axis=0)
    np.testing.assert_allclose(
        model.apply({"params": params}, images), 30 * hidden @ vectors / lengths, rtol=1e-5
    )


def test_a_cosine_head_can_be_put_on_any_model_and_features_of_zero_do_no_harm():
    one_a_file = ("bilinear_cnn", "inception_resnet_v2", "preact_resnet18", "resnet10", "resnet20", "small_cnn")
    for name in (*one_a_file, "vgg16", "wide_resnet28_2"):
        model = MODELS[name](num_classes=10, make_head=cosine_head(30.0))
        params = jax.eval_shape(lambda m=model: variables_of(m, jnp.zeros((1, 75, 75, 3))))["params"]
        assert list(params["head"]) == ["kernel"], name
    gradient = jax.grad(lambda x: jnp.sum(heads.unit(x)))(jnp.zeros(5))
    assert np.all(heads.unit(jnp.zeros(5)) == 0) and np.all(np.isfinite(gradient))


class ThreeHeads(nn.Module):
    """Outputs as selective classification has them."""

    num_classes: int

    @nn.compact
    def __call__(self, features):
        return {
            "main": nn.Dense(self.num_classes)(features),
            "select": nn.Dense(1)(features),
            "auxiliary": nn.Dense(self.num_classes)(features),
        }


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet_cifar"])
def test_a_head_is_put_on_any_models_features(name):
    """The features are those of the plain model; a head of one's own gives several outputs."""
    images = noise(2, 8, 8, 3)
    plain = SMALL[name][0](num_classes=4)
    variables = jax.jit(lambda: variables_of(plain, images))()
    features, whole = (
        jax.jit(functools.partial(model.apply, train=False))(variables, images)
        for model in (plain.clone(make_head=no_head), plain)
    )
    last = variables["params"].get("head") or variables["params"][sorted(variables["params"])[-1]]
    logits = features @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(whole, logits, rtol=1e-4, atol=1e-5)
    three = plain.clone(make_head=lambda num_classes, *, name, **settings: ThreeHeads(num_classes, name=name))
    outputs, _ = jax.eval_shape(lambda: three.init_with_output(jax.random.key(0), images, train=False))
    assert {key: value.shape for key, value in outputs.items()} == {
        "main": (2, 4), "select": (2, 1), "auxiliary": (2, 4)
    }  # fmt: skip


def test_zero_padding_keeps_every_second_pixel_between_channels_of_zeros():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    padded = np.asarray(zero_padded(x, 8, conv=None, norm=None))
    assert padded.shape == (2, 3, 2, 8)
    np.testing.assert_array_equal(padded[..., 2:5], x[:, ::2, ::2])
    assert not padded[..., :2].any() and not padded[..., 5:].any()


def test_a_pre_activated_block_is_its_formula():
    """With fresh running statistics, a normalisation in test mode divides by sqrt(1 + 1e-5)."""
    owner = MODELS["preact_resnet18"](num_classes=2)
    norm = functools.partial(layers.nn.BatchNorm, use_running_average=True, epsilon=1e-5)
    block = PreActBlock(6, 2, owner.conv(), norm)
    x = noise(2, 8, 8, 4)
    variables = jax.jit(block.init)(jax.random.key(1, impl="unsafe_rbg"), x)

    def conv(name, x, stride, pad):
        kernel = variables["params"][name]["kernel"]
        pads, numbers = [(pad, pad)] * 2, ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)

    def activated(x):
        return jnp.maximum(x, 0) / math.sqrt(1 + 1e-5)

    def by_hand(x):
        y = activated(x)
        return conv("shortcut", y, 2, 0) + conv("conv2", activated(conv("conv1", y, 2, 1)), 1, 1)

    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), jax.jit(by_hand)(x), rtol=1e-4, atol=1e-5)


def test_bilinear_pooling_is_its_formula():
    x = np.random.default_rng(0).uniform(size=(2, 3, 4, 5))
    places = x.reshape(2, 12, 5)
    moments = np.sqrt(places.transpose(0, 2, 1) @ places / 12 + 1e-5).reshape(2, 25)
    expected = moments / np.linalg.norm(moments, axis=1, keepdims=True)
    np.testing.assert_allclose(bilinear_pool(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 5, 7, 9, 14])
def test_adaptive_pooling_takes_means_of_its_patches(side):
    x = np.random.default_rng(side).normal(size=(1, side, side + 1, 2)).astype(np.float32)
    pooled = layers.adaptive_average_pool(jnp.asarray(x), 7)
    assert pooled.shape == (1, 7, 7, 2)
    for i in range(7):
        for j in range(7):
            rows = slice(math.floor(i * side / 7), math.ceil((i + 1) * side / 7))
            columns = slice(math.floor(j * (side + 1) / 7), math.ceil((j + 1) * (side + 1) / 7))
            np.testing.assert_allclose(pooled[0, i, j], x[0, rows, columns].mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "side"), [("resnet34_cifar", 32), ("resnet34_cifar_unpadded", 30)])
def test_the_unpadded_stem_makes_images_30_pixels_wide(name, side):
    model, images = MODELS[name](num_classes=10), jnp.zeros((1, 32, 32, 3))

    def forward():
        variables = variables_of(model, images)
        return model.apply(variables, images, train=False, capture_intermediates=True)[1]["intermediates"]

    assert jax.eval_shape(forward)["conv1"]["__call__"][0].shape == (1, side, side, 64)


def test_the_small_cnn_is_small():
    """Counted by XLA, for a 32x32 RGB image: what two CPU cores can train."""
    model, images = MODELS["small_cnn"](num_classes=10), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: variables_of(model, images))
    program = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(variables, images)
    assert program.cost_analysis()["flops"] < 10e6


def test_what_cannot_be_built_says_so():
    images = jnp.zeros((1, 8, 8, 3))
    for model, message in (
        (ResNetCifar(num_classes=2, depth=30, shortcut=projected), "depth is 30, expected 6n \\+ 2"),
        (WideResNet(num_classes=2, depth=30, widen=2), "depth is 30, expected 6n \\+ 4"),
    ):
        with pytest.raises(UsageError, match=message):
            jax.eval_shape(lambda m=model: variables_of(m, images))
    with pytest.raises(UsageError, match="scale is -1.0, expected a positive number"):
        cosine_head(-1.0)
    with pytest.raises(UsageError, match="did you mean 'small_cnn'"):
        model_fields("smal_cnn")


def test_fields_beyond_the_shared_ones_are_of_few():
    shared = {"num_classes", "axis_name", "dtype", "make_head"}
    own = {name: set(model_fields(name)) - shared for name in MODELS}
    assert {name: fields for name, fields in own.items() if fields} == {
        "mlp": {"hidden", "batch_norm"},
        "bag_of_embeddings": {"vocabulary", "width", "hidden", "batch_norm"},
        "transformer": {"vocabulary", "width", "layers", "heads"},
    }
    assert all(shared <= model_fields(name) for name in MODELS)
