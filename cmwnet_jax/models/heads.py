"""Last layer of a classifier: linear, or cosines between features and class vectors."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.errors import UsageError

torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in +-1/sqrt(fan_in), Torch's default for linear kernels; the initial loss is near log C."""


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Divides x by its length; zeros stay zeros, with a finite gradient.

    Args:
        x: float.
        axis: axis of the length.
    """
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


class CosineHead(nn.Module):
    """`logits_c = scale * cos(features, class_vector_c)`, the head of the original LDAM (Q27).

    Attributes:
        num_classes: C.
        scale: positive; 30 in LDAM-DRW.
    """

    num_classes: int
    scale: float

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits [n, C] in [-scale, scale] of features [n, F]."""
        shape = (features.shape[-1], self.num_classes)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        return self.scale * unit(features) @ unit(kernel, axis=0)


def classifier_head(
    num_classes: int,
    cosine_scale: float = 0.0,
    *,
    kernel_init: nn.initializers.Initializer = torch_linear,
    name: str | None = "head",
) -> Callable[[jax.Array], jax.Array]:
    """The last layer: (features [n, F] of any float dtype) -> logits [n, C] float32.

    Args:
        num_classes: C.
        cosine_scale: 0 for a linear head with bias, otherwise the scale of a `CosineHead`.
        kernel_init: initialiser of a linear head's kernel.
        name: name of the head's parameters.

    Raises:
        UsageError: cosine_scale is negative.
    """
    if not cosine_scale >= 0:
        raise UsageError(
            f"cosine_scale is {cosine_scale!r}, expected 0 for a linear head or a positive scale for one of "
            "cosines, such as LDAM's 30"
        )
    if cosine_scale:
        head = CosineHead(num_classes, cosine_scale, name=name)
    else:
        head = nn.Dense(num_classes, kernel_init=kernel_init, name=name)
    return lambda features: head(features.astype(jnp.float32))
