"""Bilinear CNN: the second moments of VGG-16's features, for fine-grained classes (Lin et al. 2015)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.models.heads import unit
from cmwnet_jax.models.layers import Classifier, he_fan_in
from cmwnet_jax.models.vgg import VGG16, vgg_features


def bilinear_pool(x: jax.Array) -> jax.Array:
    """Bilinear pooling, `unit(sqrt(mean over positions of x x^T + 1e-5))`, as published (Q39).

    Args:
        x: [n, height, width, channels] float, non-negative.

    Returns:
        [n, channels ** 2] float32, of unit length.
    """
    x = x.astype(jnp.float32)
    moments = jnp.einsum("nhwc,nhwd->ncd", x, x) / (x.shape[1] * x.shape[2])
    return unit(jnp.sqrt(moments + 1e-5).reshape(len(x), -1))


class BilinearCNN(Classifier, kw_only=True):
    """VGG-16 without BatchNorm, bilinear pooling and one linear layer (Q39).

    VGG's last max-pooling is kept, as in the published code: 448x448 images give 14x14 features. To train
    only the head, mask the optimiser to `params["head"]`.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels], at least 32 pixels a side."""
        pooled = bilinear_pool(vgg_features(images, VGG16, self.conv()))
        return self.outputs(pooled, train, kernel_init=he_fan_in)
