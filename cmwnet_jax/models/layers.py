"""What the classifiers share: their fields, convolutions, batch normalisation and pooling."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's normal initialiser by what a convolution feeds, the usual one of residual networks."""

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He's normal initialiser by what a convolution reads."""


class Classifier(nn.Module, kw_only=True):
    """The fields and layers of every classifier; `module(images, train) -> logits [n, C]` is a subclass's.

    Parameters, running statistics and logits are float32 whatever the compute dtype is.

    Attributes:
        num_classes: C.
        axis_name: the pmap axis to take batch statistics over; None for the local batch's.
        dtype: what layers compute in, e.g. `jnp.bfloat16`.
        cosine_scale: logits are this many cosines of features and class vectors (Q27); 0 for a plain
            linear head.
    """

    num_classes: int
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    cosine_scale: float = 0.0

    def conv(self, kernel_init: nn.initializers.Initializer = he_fan_out) -> Callable[..., nn.Module]:
        """`make(features, size=3, stride=1)`: square convolutions without bias that compute in `dtype`."""
        return functools.partial(convolution, dtype=self.dtype, kernel_init=kernel_init)

    def norm(self, train: bool, epsilon: float = 1e-5) -> Callable[..., nn.Module]:
        """`make()`: batch normalisation with Torch's settings, whose momentum 0.1 is Flax's 0.9 (Q34).

        Args:
            train: normalise by the batch's statistics and update the running ones, or by the running ones.
            epsilon: what is added to the variance.
        """
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=epsilon,
            dtype=self.dtype,
            # There is no pmap around an initialisation.
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
    """A convolution padded alike on all sides, as Torch's is.

    Flax's "SAME" pads 0 before and 1 after where a stride of 2 meets an even size; weights that were
    trained with Torch would see images that are shifted by a pixel.

    Args:
        features: channels out.
        size: of the kernel, a side or (height, width).
        stride: in both directions.
        padding: zeros on each side; None keeps the size at stride 1.
        use_bias: whether to add one; what is normalised next needs none.
        kwargs: other arguments of `nn.Conv`.
    """
    sizes = (size, size) if isinstance(size, int) else size
    sides = [(side // 2 if padding is None else padding,) * 2 for side in sizes]
    return nn.Conv(features, sizes, (stride, stride), padding=sides, use_bias=use_bias, **kwargs)


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of size * size patches that cover the image and overlap where it is not a multiple.

    Patch i of a side of s begins at floor(i * s / size) and ends before ceil((i + 1) * s / size), which
    is Torch's rule; images smaller than `size` are enlarged by it.

    Args:
        x: [n, height, width, channels] float.
        size: patches a side.

    Returns:
        [n, size, size, channels] of the same dtype.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(_patch_means(side, size), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _patch_means(side: int, size: int) -> np.ndarray:
    """[size, side] float: row i has the weights of patch i's mean."""
    starts = np.arange(size) * side // size
    ends = -(-np.arange(1, size + 1) * side // size)
    position = np.arange(side)
    inside = (position >= starts[:, None]) & (position < ends[:, None])
    return inside / inside.sum(1, keepdims=True)


def global_average_pool(x: jax.Array) -> jax.Array:
    """[n, height, width, channels] to [n, channels], the mean over all places, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
