"""OLTR's head for any features: a linear classifier, a memory of centroids, cosines (Liu et al. 2019).

The linear classifier's parameters have the names that they have without a memory, so that a classifier of stage
one is a part of it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.core.oltr import MemoryOutputs, meta_embedding, squashed
from cmwnet_jax.models.heads import linear_head, unit

MEMORY = "memory"
"""Name of the parameters `centroids` [C, F], `kernel` [F, C] and `selector`."""


class MemoryHead(nn.Module):
    """Logits of the meta embedding: `scale` times the cosine with a class's vector, squashed by its length.

    Attributes:
        num_classes: C.
        kernel_init: initialiser of the selector.
        scale: 16 in the authors' code.
        reach: factor of the reachability; 10 in the authors' code.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer
    scale: float = 16.0
    reach: float = 10.0

    @nn.compact
    def __call__(self, features: jax.Array, direct: jax.Array) -> MemoryOutputs:
        """The outputs for features [n, F] and their linear logits [n, C]."""
        width = features.shape[-1]
        shape = (self.num_classes, width)
        centroids = self.param("centroids", nn.initializers.zeros_init(), shape, jnp.float32)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape[::-1], jnp.float32)
        selector = nn.Dense(width, kernel_init=self.kernel_init, name="selector")(features)
        # The memory is learned by the centroid loss alone.
        memory = jax.lax.stop_gradient(centroids)
        embedding = meta_embedding(features, memory, direct, selector, reach=self.reach)
        logits = self.scale * squashed(embedding) @ unit(kernel, axis=0)
        return MemoryOutputs(logits, direct, features, centroids)


def memory_head(
    num_classes: int,
    *,
    kernel_init: nn.initializers.Initializer,
    norm: Callable[..., nn.Module],
    name: str | None,
) -> Callable[[jax.Array], MemoryOutputs]:
    """The linear head and a `MemoryHead` after it, as a `Head`.

    Args:
        num_classes: C.
        kernel_init: initialiser of the linear head's and the selector's kernels.
        norm: not used.
        name: name of the linear head's parameters.
    """
    linear = linear_head(num_classes, kernel_init=kernel_init, norm=norm, name=name)
    memory = MemoryHead(num_classes, kernel_init, name=MEMORY)
    return lambda features: memory(features, linear(features))
