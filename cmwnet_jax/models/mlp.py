"""Multilayer perceptron on flattened images."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU, with or without BatchNorm before it.

    Attributes:
        num_classes: C.
        hidden: units of each hidden layer.
        batch_norm: whether to normalise before each ReLU (Torch's momentum 0.1 is Flax's 0.9).
        axis_name: the pmap axis to take batch statistics over; None for the local batch's.
    """

    num_classes: int
    hidden: Sequence[int] = (256, 256)
    batch_norm: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of images [n, ...]."""
        x = images.reshape(len(images), -1)
        for width in self.hidden:
            x = nn.Dense(width, use_bias=not self.batch_norm)(x)
            if self.batch_norm:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    axis_name=self.axis_name if train and not self.is_initializing() else None,
                )(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x)
