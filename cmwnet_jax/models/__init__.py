"""Classifiers in Linen, one file per architecture: `module(inputs, train) -> logits [n, C]`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.typing import ArrayLike

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.models.bag_of_embeddings import BagOfEmbeddings
from cmwnet_jax.models.bilinear_cnn import BilinearCNN
from cmwnet_jax.models.inception_resnet_v2 import InceptionResNetV2
from cmwnet_jax.models.mlp import MLP as MLP
from cmwnet_jax.models.preact_resnet import PreActResNet18
from cmwnet_jax.models.resnet import BasicBlock, Bottleneck, ResNet, cifar_stem, imagenet_stem
from cmwnet_jax.models.resnet_cifar import ResNetCifar, projected, zero_padded
from cmwnet_jax.models.small_cnn import SmallCNN
from cmwnet_jax.models.transformer import Transformer
from cmwnet_jax.models.vgg import VGG, VGG16, VGG19, VGGCifar
from cmwnet_jax.models.wide_resnet import WideResNet

_option_a = functools.partial(ResNetCifar, shortcut=zero_padded)
_resnet = functools.partial(ResNet, stem=imagenet_stem)
_resnet10 = functools.partial(_resnet, stages=(1, 1, 1, 1), block=BasicBlock)
_resnet18 = functools.partial(_resnet, stages=(2, 2, 2, 2), block=BasicBlock)
_resnet34 = functools.partial(_resnet, stages=(3, 4, 6, 3), block=BasicBlock)
_resnet50 = functools.partial(_resnet, stages=(3, 4, 6, 3), block=Bottleneck)

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bag_of_embeddings": BagOfEmbeddings,
    "bilinear_cnn": BilinearCNN,
    "inception_resnet_v2": InceptionResNetV2,
    "mlp": MLP,
    "preact_resnet18": PreActResNet18,
    "resnet10": _resnet10,
    "resnet10_cifar": functools.partial(_resnet10, stem=cifar_stem),
    "resnet18": _resnet18,
    "resnet18_cifar": functools.partial(_resnet18, stem=cifar_stem),
    "resnet20": functools.partial(_option_a, depth=20),
    "resnet32": functools.partial(_option_a, depth=32),
    "resnet32_projection": functools.partial(ResNetCifar, depth=32, shortcut=projected),
    "resnet34": _resnet34,
    "resnet34_cifar": functools.partial(_resnet34, stem=cifar_stem),
    "resnet34_cifar_unpadded": functools.partial(_resnet34, stem=functools.partial(cifar_stem, padding=0)),
    "resnet50": _resnet50,
    "resnet50_cifar": functools.partial(_resnet50, stem=cifar_stem),
    "resnet56": functools.partial(_option_a, depth=56),
    "small_cnn": SmallCNN,
    "transformer": Transformer,
    "vgg16": functools.partial(VGG, stages=VGG16, batch_norm=False),
    "vgg16_bn": functools.partial(VGG, stages=VGG16, batch_norm=True),
    "vgg16_cifar": VGGCifar,
    "vgg19_bn": functools.partial(VGG, stages=VGG19, batch_norm=True),
    "wide_resnet28_2": functools.partial(WideResNet, depth=28, widen=2),
    "wide_resnet28_8": functools.partial(WideResNet, depth=28, widen=8),
    "wide_resnet28_10": functools.partial(WideResNet, depth=28, widen=10),
}
"""Constructors of classifiers by config name; all take `Classifier`'s fields."""

SMALLEST_SIDES = {
    "bilinear_cnn": 32,
    "inception_resnet_v2": 75,
    "resnet34_cifar_unpadded": 3,
    "vgg16": 32,
    "vgg16_bn": 32,
    "vgg16_cifar": 32,
    "vgg19_bn": 32,
}
"""Smallest number of pixels per side; with fewer, a feature map would be empty. Other models take 1."""


INPUTS = {"bag_of_embeddings": ("tokens",), "mlp": ("images", "vectors"), "transformer": ("tokens",)}
"""Kinds of input (`data.kinds`) that a model takes; the others take images."""


def at_random(model: nn.Module, inputs: ArrayLike, seed: int) -> Mapping[str, Any]:
    """Random variables of a classifier, equal for equal seeds.

    Args:
        model: the classifier.
        inputs: one example as the network sees it, [1, ...].
        seed: the run's seed.
    """
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), inputs)


def check_kind(name: str, kind: str) -> None:
    """Checks that a model takes a kind of input.

    Args:
        name: name of the model.
        kind: `images`, `vectors` or `tokens`.

    Raises:
        UsageError: it does not.
    """
    taken = {model: INPUTS.get(model, ("images",)) for model in MODELS}
    if kind not in taken[name]:
        fitting = ", ".join(model for model in MODELS if kind in taken[model])
        raise UsageError(
            f"model.name is {name!r}, which takes {' or '.join(taken[name])}, but the data set holds {kind}: "
            f"take one of {fitting}"
        )


def check_image(name: str, shape: tuple[int, int, int]) -> None:
    """Checks that images are large enough for a model.

    Args:
        name: name of the model.
        shape: (height, width, channels).

    Raises:
        UsageError: the images are too small.
    """
    height, width, _ = shape
    least = SMALLEST_SIDES.get(name, 1)
    if min(height, width) < least:
        raise UsageError(
            f"model.name is {name!r}, which takes images of at least {least} pixels a side, but these are "
            f"{height} x {width}: take another model, or larger images (data.resize_pixels, data.crop_pixels)"
        )


def model_fields(name: str) -> frozenset[str]:
    """The keywords that `MODELS[name]` takes.

    Args:
        name: name of the model.

    Raises:
        UsageError: there is no such model.

    Example:
        >>> sorted(model_fields("mlp") - model_fields("resnet32"))
        ['batch_norm', 'hidden']
    """
    if name not in MODELS:
        raise unknown_name("model.name", name, MODELS)
    made = MODELS[name]
    chosen = getattr(made, "keywords", {})  # keywords that the name itself sets
    fields = {field.name for field in dataclasses.fields(getattr(made, "func", made))}
    return frozenset(fields - {"parent", "name", *chosen})
