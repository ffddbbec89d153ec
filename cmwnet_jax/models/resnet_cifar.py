"""ResNet for 32x32 images: 6n + 2 layers in three stages of 16, 32 and 64 channels (He et al. 2016)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.errors import UsageError
from cmwnet_jax.models.layers import Classifier, global_average_pool, he_fan_in, he_fan_out


def zero_padded(x: jax.Array, channels: int, conv: Callable, norm: Callable) -> jax.Array:
    """Takes every second pixel and pads channels with zeros on both sides (option A, the paper's, Q37).

    Args:
        x: [n, height, width, channels in].
        channels: output channels, at least as many as in x.
        conv, norm: not used, since nothing is learned.
    """
    del conv, norm
    missing = channels - x.shape[-1]
    return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


def projected(x: jax.Array, channels: int, conv: Callable, norm: Callable) -> jax.Array:
    """A normalised 1x1 convolution with stride 2 (option B, that of the partial-label code, Q37).

    Args:
        x: [n, height, width, channels in].
        channels: output channels.
        conv, norm: make the layers.
    """
    return norm(name="downsample_1")(conv(channels, 1, 2, name="downsample_0")(x))


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    channels: int
    stride: int
    shortcut: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(self.conv(self.channels, stride=self.stride, name="conv1")(x)))
        y = self.norm(name="bn2")(self.conv(self.channels, name="conv2")(y))
        if self.stride > 1:
            x = self.shortcut(x, self.channels, self.conv, self.norm)
        return nn.relu(x + y)


class ResNetCifar(Classifier, kw_only=True):
    """ResNet-20, 32, 44, 56, 110.

    Attributes:
        depth: 6n + 2 layers with weights, n blocks per stage.
        shortcut: `zero_padded` or `projected`, used where a stage begins with stride 2. The initialisers are
            those of the published code: He by fan-in for the former, by fan-out for the latter.
    """

    depth: int
    shortcut: Callable

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels].

        Raises:
            UsageError: depth is not 6n + 2.
        """
        if self.depth < 8 or self.depth % 6 != 2:
            raise UsageError(f"depth is {self.depth}, expected 6n + 2, such as 20 or 32")
        conv = self.conv(he_fan_in if self.shortcut is zero_padded else he_fan_out)
        norm = self.norm(train)
        x = nn.relu(norm(name="bn1")(conv(16, name="conv1")(images)))
        for stage, channels in enumerate((16, 32, 64)):
            for block in range(self.depth // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _Block(channels, stride, self.shortcut, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        return self.outputs(global_average_pool(x), train)
