"""Pre-activation ResNet: BatchNorm and ReLU before the convolutions (He et al. 2016, Identity Mappings)."""

from collections.abc import Callable

import flax.linen as nn
import jax

from cmwnet_jax.models.layers import Classifier, global_average_pool


class PreActBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, with a shortcut.

    The shortcut is the identity if the shapes match, otherwise a 1x1 convolution of the *activated* input.

    Attributes:
        channels: output channels.
        stride: stride of the first convolution.
        conv, norm: make the layers.
    """

    channels: int
    stride: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, height, width, channels] of x [n, height, width, channels in]."""
        y = nn.relu(self.norm(name="bn1")(x))
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = self.conv(self.channels, 1, self.stride, name="shortcut")(y)
        y = self.conv(self.channels, stride=self.stride, name="conv1")(y)
        return x + self.conv(self.channels, name="conv2")(nn.relu(self.norm(name="bn2")(y)))


class PreActResNet18(Classifier, kw_only=True):
    """Eight blocks in four stages, for 32x32 images, as published (Q35).

    It differs from He et al.'s in two ways: the stem is normalised and activated before the first block, which
    does so again, and there is nothing between the last block and the pooling.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]."""
        conv, norm = self.conv(), self.norm(train)
        x = nn.relu(norm(name="bn1")(conv(64, name="conv1")(images)))
        for stage, channels in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                x = PreActBlock(channels, stride, conv, norm, name=f"layer{stage + 1}_{block}")(x)
        return self.outputs(global_average_pool(x), train)
