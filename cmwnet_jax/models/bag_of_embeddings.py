"""Bag of embeddings: the mean of a text's token embeddings, then a multilayer perceptron."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.models.layers import Classifier
from cmwnet_jax.models.mlp import MLP


class BagOfEmbeddings(Classifier, kw_only=True):
    """Averages the embeddings of all tokens but the padding, 0; the order of the tokens does not matter.

    A text of padding alone has the mean 0.

    Attributes:
        vocabulary: number of tokens; those of a text are in [0, vocabulary).
        width: size of an embedding.
        hidden: units of each hidden layer.
        batch_norm: whether to normalise before each ReLU.
    """

    vocabulary: int
    width: int = 128
    hidden: Sequence[int] = (256, 256)
    batch_norm: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = True) -> jax.Array:
        """Logits [n, C] of tokens [n, length] int."""
        embedded = nn.Embed(self.vocabulary, self.width, dtype=self.dtype)(tokens)
        shared = {name: getattr(self, name) for name in ("axis_name", "dtype", "make_head")}
        layers = MLP(
            num_classes=self.num_classes, hidden=self.hidden, batch_norm=self.batch_norm, name="mlp", **shared
        )
        return layers(mean_of_tokens(embedded, tokens), train)


def mean_of_tokens(values: jax.Array, tokens: jax.Array) -> jax.Array:
    """The mean over the tokens that are not padding; zeros for a text without any.

    Args:
        values: [n, length, d] float.
        tokens: [n, length] int, 0 for padding.

    Returns:
        [n, d] of the same dtype.
    """
    mask = (tokens != 0)[..., None]
    count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(jnp.float32)
    # Where, not a product: padding must not carry NaN into the sum.
    return (jnp.sum(jnp.where(mask, values, 0), axis=1, dtype=jnp.float32) / count).astype(values.dtype)
