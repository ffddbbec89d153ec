"""Base class and layers of the classifiers: convolution, batch normalisation and pooling."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.models.heads import Head, linear_head, torch_linear

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's normal initialiser by fan-out, usual in residual networks."""

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He's normal initialiser by fan-in."""


class Classifier(nn.Module, kw_only=True):
    """Fields and layers of every classifier; subclasses define `module(images, train) -> logits [n, C]`.

    Parameters, running statistics and logits are float32, whatever the compute dtype.

    Attributes:
        num_classes: C.
        axis_name: the pmap axis of batch statistics; None for those of the local batch.
        dtype: compute dtype of the layers, e.g. `jnp.bfloat16`.
        make_head: what turns the features into outputs, see `heads.Head`.
    """

    num_classes: int
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    make_head: Head = linear_head

    def outputs(
        self,
        features: jax.Array,
        train: bool,
        kernel_init: nn.initializers.Initializer = torch_linear,
        name: str | None = "head",
    ) -> Any:
        """The head's outputs; to be called last in a compact method.

        Args:
            features: [n, F] of any float dtype.
            train: whether a head that normalises does so by the batch's statistics.
            kernel_init: the architecture's initialiser of a linear head.
            name: the name of the head's parameters.
        """
        norm = functools.partial(self.norm(train), dtype=jnp.float32)
        head = self.make_head(self.num_classes, kernel_init=kernel_init, norm=norm, name=name)
        return head(features.astype(jnp.float32))

    def conv(self, kernel_init: nn.initializers.Initializer = he_fan_out) -> Callable[..., nn.Module]:
        """`make(features, size=3, stride=1)`: square convolutions without bias that compute in `dtype`."""
        return functools.partial(convolution, dtype=self.dtype, kernel_init=kernel_init)

    def norm(self, train: bool, epsilon: float = 1e-5) -> Callable[..., nn.Module]:
        """`make()`: batch normalisation with Torch's settings; its momentum 0.1 is Flax's 0.9 (Q34).

        Args:
            train: True normalises by the batch's statistics and updates the running ones; False uses the
                running ones.
            epsilon: added to the variance.
        """
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=epsilon,
            dtype=self.dtype,
            # Initialisation runs outside of pmap.
            axis_name=self.axis_name if train and not self.is_initializing() else None,
        )


def convolution(
    features: int,
    size: int | tuple[int, int] = 3,
    stride: int = 1,
    *,
    padding: int | None = None,
    use_bias: bool = False,
    **kwargs,
) -> nn.Conv:
    """A convolution with equal padding on all sides, as in Torch.

    With stride 2 and an even size, Flax's "SAME" pads 0 before and 1 after. Weights trained with Torch would
    then see images shifted by a pixel.

    Args:
        features: output channels.
        size: size of the kernel, a side or (height, width).
        stride: stride in both directions.
        padding: zeros on each side; None keeps the size at stride 1.
        use_bias: whether to add a bias; none is needed before a normalisation.
        kwargs: other arguments of `nn.Conv`.
    """
    sizes = (size, size) if isinstance(size, int) else size
    sides = [(side // 2 if padding is None else padding,) * 2 for side in sizes]
    return nn.Conv(features, sizes, (stride, stride), padding=sides, use_bias=use_bias, **kwargs)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages size * size patches that cover the image; they overlap if its side is not a multiple of `size`.

    Patch i of a side of length s begins at floor(i * s / size) and ends before ceil((i + 1) * s / size), as in
    Torch. Images smaller than `size` are enlarged.

    Args:
        x: [n, height, width, channels] float.
        size: patches per side.

    Returns:
        [n, size, size, channels] of the same dtype.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(_patch_means(side, size), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _patch_means(side: int, size: int) -> np.ndarray:
    """[size, side] float; row i has the averaging weights of patch i."""
    starts = np.arange(size) * side // size
    ends = -(-np.arange(1, size + 1) * side // size)
    position = np.arange(side)
    inside = (position >= starts[:, None]) & (position < ends[:, None])
    return inside / inside.sum(1, keepdims=True)


def global_average_pool(x: jax.Array) -> jax.Array:
    """[n, height, width, channels] to [n, channels], the mean over all positions, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
