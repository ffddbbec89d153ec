"""A small transformer encoder for texts (Vaswani et al. 2017), with normalisation before each layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.errors import UsageError
from cmwnet_jax.models.bag_of_embeddings import mean_of_tokens
from cmwnet_jax.models.layers import Classifier


class Transformer(Classifier, kw_only=True):
    """Token embeddings with sine positions, encoder layers without dropout, and the mean over the tokens.

    Padding, 0, is masked in attention and mean, so that logits do not depend on how far a text is padded.

    Attributes:
        vocabulary: number of tokens; those of a text are in [0, vocabulary).
        width: size of an embedding, an even multiple of `heads`.
        layers: number of encoder layers.
        heads: attention heads per layer.
    """

    vocabulary: int
    width: int = 128
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of tokens [n, length] int.

        Raises:
            UsageError: `width` is odd or no multiple of `heads`.
        """
        if self.width % self.heads or self.width % 2:
            raise UsageError(
                f"model.width is {self.width}, expected an even multiple of model.heads, which is {self.heads}"
            )
        x = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02))(tokens)
        x = (x + 0.02 * _positions(tokens.shape[1], self.width)).astype(self.dtype)
        mask = (tokens != 0)[:, None, None, :]
        for _ in range(self.layers):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x += nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(y, mask=mask)
            y = nn.Dense(4 * self.width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x += nn.Dense(self.width, dtype=self.dtype)(nn.gelu(y))
        return self.outputs(mean_of_tokens(nn.LayerNorm(dtype=self.dtype)(x), tokens), train)


def _positions(length: int, width: int) -> jax.Array:
    """[length, width] float32, sines and cosines of the position at wavelengths from 2 pi to 20,000 pi."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)
