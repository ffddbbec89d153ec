"""VGG with 16 and 19 layers, with and without BatchNorm (Simonyan and Zisserman 2015)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cmwnet_jax.models.layers import Classifier, adaptive_average_pool, he_fan_in

VGG16 = (2, 2, 3, 3, 3)
"""Number of 3x3 convolutions in VGG-16's five stages, with 64, 128, 256, 512 and 512 channels."""

VGG19 = (2, 2, 4, 4, 4)
"""Number of 3x3 convolutions in VGG-19's five stages."""

_small_normal = nn.initializers.normal(0.01)


def vgg_features(
    images: jax.Array,
    stages: Sequence[int],
    conv: Callable,
    norm: Callable | None = None,
    between: Callable[[int], Callable] = lambda stage: lambda x: x,
) -> jax.Array:
    """The convolutions, in stages that each end with a 2x2 max-pooling.

    Call it in a compact method. Convolutions have a bias even if they are normalised. Layers are named
    `features_i` with torchvision's numbers, which also count ReLU and pooling.

    Args:
        images: [n, height, width, channels], at least 32 pixels per side.
        stages: number of convolutions per stage.
        conv: makes the convolutions.
        norm: makes normalisations; None for VGG without BatchNorm.
        between: number of the stage -> what follows all of its activations but the last.

    Returns:
        [n, height // 32, width // 32, 512].
    """
    x, number = images, 0
    for stage, convolutions in enumerate(stages):
        for left in reversed(range(convolutions)):
            x = conv(min(64 * 2**stage, 512), use_bias=True, name=f"features_{number}")(x)
            if norm is not None:
                x = norm(name=f"features_{number + 1}")(x)
            x = nn.relu(x)
            x = between(stage)(x) if left else x
            number += 2 if norm is None else 3
        x = nn.max_pool(x, (2, 2), (2, 2))
        number += 1
    return x


class VGG(Classifier, kw_only=True):
    """VGG with ImageNet's head: 7x7x512 features, two layers of 4096 units with dropout 0.5 (Q38).

    Adaptive average pooling brings the features to 7x7 if images are not 224x224, as in torchvision and the
    published code. The 2x2 features of ANIMAL-10N's 64x64 images are thus *enlarged*: each of the 49 positions
    is one of the four, or a mean of neighbours. The published numbers were made in this way, although it costs
    the head's 120 million parameters.

    Attributes:
        stages: `VGG16` or `VGG19`.
        batch_norm: whether convolutions are normalised; set by the name in `MODELS`.
    """

    stages: Sequence[int]
    batch_norm: bool

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]; train mode needs a key named `dropout`."""
        norm = self.norm(train) if self.batch_norm else None
        x = adaptive_average_pool(vgg_features(images, self.stages, self.conv(), norm), 7)
        x = x.reshape(len(x), -1)
        for number in (0, 3):  # torchvision's numbers, which also count ReLU and dropout
            layer = nn.Dense(4096, dtype=self.dtype, kernel_init=_small_normal, name=f"classifier_{number}")
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(layer(x)))
        return self.outputs(x, train, kernel_init=_small_normal)


class VGGCifar(Classifier, kw_only=True):
    """VGG-16 for 32x32 images: BatchNorm, dropout, and one layer of 512 units instead of two of 4096.

    This is SelectiveNet's network (Geifman and El-Yaniv 2019), after Liu and Deng 2015. Its dropout rates are
    0.3 in the first stage, 0.4 in the others and 0.5 around the layer of 512 units. Unlike in its code,
    normalisations come before ReLU, as in all models here.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, height, width, channels]; train mode needs a key named `dropout`."""

        def dropout(rate: float) -> nn.Module:
            return nn.Dropout(rate, deterministic=not train)

        norm = self.norm(train)
        x = vgg_features(images, VGG16, self.conv(), norm, between=lambda stage: dropout(0.4 if stage else 0.3))
        x = dropout(0.5)(x).reshape(len(x), -1)
        x = nn.Dense(512, dtype=self.dtype, kernel_init=he_fan_in, name="classifier_0")(x)
        x = dropout(0.5)(nn.relu(norm(name="classifier_1")(x)))
        return self.outputs(x, train)
