"""Last layer of a classifier: linear, or cosines between features and class vectors."""

import functools
from collections.abc import Callable
from typing import Any

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


Head = Callable[..., Callable[[jax.Array], Any]]
"""(num_classes, *, kernel_init, norm, name) -> (features [n, F] float32 -> outputs), for a compact method.

The outputs of a plain classifier are logits [n, C]. A method with several outputs defines its own head, whose
outputs are a pytree. `kernel_init` and `name` are those of the architecture's linear head; `norm(...)` makes a
BatchNorm in the classifier's mode, for heads that normalise.
"""


def linear_head(
    num_classes: int,
    *,
    kernel_init: nn.initializers.Initializer,
    norm: Callable[..., nn.Module],
    name: str | None,
) -> nn.Module:
    """A linear layer with bias, the usual `Head`.

    Args:
        num_classes: C.
        kernel_init: initialiser of the kernel.
        norm: not used.
        name: name of the parameters.
    """
    del norm
    return nn.Dense(num_classes, kernel_init=kernel_init, name=name)


def cosine_head(scale: float) -> Head:
    """A `Head` of cosines between features and class vectors (Q27).

    Args:
        scale: factor of the cosines, positive; 30 in LDAM-DRW.

    Raises:
        UsageError: the scale is not positive.
    """
    if not scale > 0:
        raise UsageError(f"cosine_head: scale is {scale!r}, expected a positive number, such as LDAM's 30")

    return functools.partial(_cosines, scale=scale)  # can be pickled, unlike a closure


def _cosines(num_classes: int, *, scale: float, name: str | None, **settings: Any) -> nn.Module:
    del settings
    return CosineHead(num_classes, scale, name=name)


def no_head(num_classes: int, **settings: Any) -> Callable[[jax.Array], jax.Array]:
    """A `Head` that returns the features [n, F], e.g. of `model.clone(make_head=no_head)`."""
    del num_classes, settings
    return lambda features: features
