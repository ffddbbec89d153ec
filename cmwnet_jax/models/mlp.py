"""Multilayer perceptron on vectors or flattened images."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from cmwnet_jax.models.layers import Classifier


class MLP(Classifier, kw_only=True):
    """Dense layers with ReLU, optionally with BatchNorm before it.

    `hidden=(300, 301, 302, 303)` with BatchNorm is the network of the partial-label experiments.

    Attributes:
        hidden: units of each hidden layer.
        batch_norm: whether to normalise before each ReLU.
    """

    hidden: Sequence[int] = (256, 256)
    batch_norm: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of inputs [n, ...] float."""
        x = inputs.reshape(len(inputs), -1)
        for width in self.hidden:
            x = nn.Dense(width, use_bias=not self.batch_norm, dtype=self.dtype)(x)
            if self.batch_norm:
                x = self.norm(train)()(x)
            x = nn.relu(x)
        # Numbered like the other layers; Flax's initialiser, as they use.
        kernel_init = nn.linear.default_kernel_init
        return self.outputs(x, train, kernel_init=kernel_init, name=None)
