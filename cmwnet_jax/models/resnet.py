"""ResNet in four stages, with a stem for ImageNet or for CIFAR images (He et al. 2016)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cmwnet_jax.models.layers import Classifier, global_average_pool


def imagenet_stem(images: jax.Array, conv: Callable, norm: Callable) -> jax.Array:
    """A 7x7 convolution and a pooling, each with stride 2; reduces images to a quarter of the size.

    Args:
        images: [n, height, width, channels].
        conv, norm: make the layers.
    """
    x = nn.relu(norm(name="bn1")(conv(64, 7, 2, name="conv1")(images)))
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def cifar_stem(images: jax.Array, conv: Callable, norm: Callable, *, padding: int = 1) -> jax.Array:
    """A 3x3 convolution, which keeps the full size.

    Args:
        images: [n, height, width, channels].
        conv, norm: make the layers.
        padding: 0 reduces 32x32 images to 30x30, as in the published ResNet-34 of Sec. 4.3 (Q36).
    """
    return nn.relu(norm(name="bn1")(conv(64, padding=padding, name="conv1")(images)))


class _Residual(nn.Module):
    """A block's convolutions plus its shortcut, which is a normalised 1x1 convolution if shapes change."""

    channels: int
    stride: int
    conv: Callable
    norm: Callable

    def joined(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Joins the block's input x with the output y of its convolutions."""
        if x.shape != y.shape:
            x = self.conv(y.shape[-1], 1, self.stride, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x)
        return nn.relu(x + y)


class BasicBlock(_Residual):
    """Two 3x3 convolutions (ResNet-10, 18, 34)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, height, width, channels] of x [n, height, width, channels in]."""
        y = nn.relu(self.norm(name="bn1")(self.conv(self.channels, stride=self.stride, name="conv1")(x)))
        return self.joined(x, self.norm(name="bn2")(self.conv(self.channels, name="conv2")(y)))


class Bottleneck(_Residual):
    """A 1x1, a strided 3x3, and a 1x1 convolution to four times the channels (ResNet-50)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, height, width, 4 * channels] of x [n, height, width, channels in]."""
        y = nn.relu(self.norm(name="bn1")(self.conv(self.channels, 1, name="conv1")(x)))
        y = nn.relu(self.norm(name="bn2")(self.conv(self.channels, stride=self.stride, name="conv2")(y)))
        return self.joined(x, self.norm(name="bn3")(self.conv(4 * self.channels, 1, name="conv3")(y)))


class ResNet(Classifier, kw_only=True):
    """ResNet-10, 18, 34, 50; layers have torchvision's names and compute the same as torchvision's.

    Attributes:
        stages: number of blocks in each of the four stages, with 64, 128, 256 and 512 channels.
        block: `BasicBlock` or `Bottleneck`.
        stem: `imagenet_stem`, `cifar_stem`, or another (images, conv, norm) -> [n, height, width, 64].
    """

    stages: Sequence[int]
    block: type[nn.Module]
    stem: Callable

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]."""
        conv, norm = self.conv(), self.norm(train)
        x = self.stem(images, conv, norm)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(64 * 2**stage, stride, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        return self.outputs(global_average_pool(x), train)
