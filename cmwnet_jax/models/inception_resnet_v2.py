"""Inception-ResNet-v2 (Szegedy et al. 2017), as in TensorFlow's weights and the published code."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.models.layers import Classifier, global_average_pool

Branches = Sequence[Sequence[tuple]]
"""Branches of layers, each (channels, size) or (channels, size, stride); a size is a side or a pair."""

_MIXED_5B: Branches = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
_BLOCK_35: Branches = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
_MIXED_6A: Branches = (((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2)))
_BLOCK_17: Branches = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
_MIXED_7A: Branches = (((256, 1), (384, 3, 2)), ((256, 1), (288, 3, 2)), ((256, 1), (288, 3), (320, 3, 2)))
_BLOCK_8: Branches = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))


class _Conv(nn.Module):
    """Convolution, BatchNorm, ReLU; with stride 2 there is no padding."""

    channels: int
    size: int | tuple[int, int]
    stride: int
    conv: Callable
    norm: Callable
    padding: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = 0 if self.stride > 1 else self.padding
        x = self.conv(self.channels, self.size, self.stride, padding=padding, name="conv")(x)
        return nn.relu(self.norm(name="bn")(x))


class _Mixed(nn.Module):
    """Parallel branches of convolutions; their channels are concatenated."""

    branches: Branches
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        joined = []
        for number, layers in enumerate(self.branches):
            y = x
            for position, (channels, size, *stride) in enumerate(layers):
                name = f"branch{number}_{position}"
                y = _Conv(channels, size, *(stride or [1]), self.conv, self.norm, name=name)(y)
            joined.append(y)
        return jnp.concatenate(joined, axis=-1)


class _ResidualMixed(nn.Module):
    """`relu(x + scale * project(branches(x)))`; the last block has no ReLU."""

    branches: Branches
    scale: float
    conv: Callable
    norm: Callable
    activate: Callable = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _Mixed(self.branches, self.conv, self.norm, name="mixed")(x)
        y = self.conv(x.shape[-1], 1, use_bias=True, name="project")(y)
        return self.activate(x + self.scale * y)


class InceptionResNetV2(Classifier, kw_only=True):
    """Inception-ResNet-v2 for 299x299 images; at least 75 pixels a side.

    BatchNorm's epsilon is TensorFlow's 0.001. The features have 1536 channels, averaged over all positions.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]."""
        layers = {"conv": self.conv(), "norm": self.norm(train, epsilon=1e-3)}
        x = _stem(images, layers)
        pooled = nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)), count_include_pad=False)
        pooled = _Conv(64, 1, 1, **layers, name="mixed_5b_pool")(pooled)
        x = jnp.concatenate([_Mixed(_MIXED_5B, **layers, name="mixed_5b")(x), pooled], axis=-1)
        for block in range(10):
            x = _ResidualMixed(_BLOCK_35, 0.17, **layers, name=f"block35_{block}")(x)
        x = _beside_pooling(_MIXED_6A, x, layers, name="mixed_6a")
        for block in range(20):
            x = _ResidualMixed(_BLOCK_17, 0.1, **layers, name=f"block17_{block}")(x)
        x = _beside_pooling(_MIXED_7A, x, layers, name="mixed_7a")
        for block in range(9):
            x = _ResidualMixed(_BLOCK_8, 0.2, **layers, name=f"block8_{block}")(x)
        x = _ResidualMixed(_BLOCK_8, 1.0, **layers, activate=_as_it_is, name="block8_9")(x)
        x = _Conv(1536, 1, 1, **layers, name="conv_7b")(x)
        return self.outputs(global_average_pool(x), train)


def _as_it_is(x: jax.Array) -> jax.Array:
    return x


def _stem(images: jax.Array, layers: dict) -> jax.Array:
    """Stem: an eighth of the size, 192 channels."""
    x = _Conv(32, 3, 2, **layers, name="conv_1a")(images)
    x = _Conv(32, 3, 1, **layers, padding=0, name="conv_2a")(x)
    x = _Conv(64, 3, 1, **layers, name="conv_2b")(x)
    x = nn.max_pool(x, (3, 3), (2, 2))
    x = _Conv(80, 1, 1, **layers, name="conv_3b")(x)
    x = _Conv(192, 3, 1, **layers, padding=0, name="conv_4a")(x)
    return nn.max_pool(x, (3, 3), (2, 2))


def _beside_pooling(branches: Branches, x: jax.Array, layers: dict, name: str) -> jax.Array:
    """Reduction to half the size: branches that end with stride 2, and a max-pooling."""
    mixed = _Mixed(branches, **layers, name=name)(x)
    return jnp.concatenate([mixed, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)
