"""Small convolutional network, which a CPU trains in minutes."""

import flax.linen as nn
import jax

from cmwnet_jax.models.layers import Classifier, global_average_pool


class SmallCNN(Classifier, kw_only=True):
    """Three stages of two 3x3 convolutions (24, 48 and 96 channels) with BatchNorm and ReLU.

    The first convolution of each stage has stride 2: on a CPU, the backward pass of pooling is slow, and
    nothing is computed at the images' full size. 162,994 parameters for 10 classes; 5.5 million
    multiplications per 32x32 RGB image.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]."""
        conv, norm = self.conv(), self.norm(train)
        x = images
        for channels in (24, 48, 96):
            for stride in (2, 1):
                x = nn.relu(norm()(conv(channels, stride=stride)(x)))
        return self.outputs(global_average_pool(x), train)
