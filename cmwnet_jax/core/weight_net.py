"""Class-aware weight net: computes a sample weight from a loss and a meta-class (Eq. 4, Fig. 1b)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmwnet_jax.core.lookup import loud
from cmwnet_jax.errors import UsageError


def _uniform_by_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform initialiser in +-1/sqrt(fan_in), for kernels and biases.

    Biases are random too, because the input is a single non-negative number. With zero biases, every hidden
    unit would have its kink at loss 0, half of them would be dead, and the logit would be linear in the loss.
    """
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class WeightNet(nn.Module):
    """K weighting functions of the loss that share one hidden layer (Eq. 4); K = 1 is MW-Net.

    `weights_i = sigmoid(head_k(relu(hidden(losses_i))))` with `k = meta_class_i`.

    Each example changes only the shared layer and the head of its own meta-class.

    Attributes:
        num_meta_classes: K, the number of heads.
        hidden: units of the shared layer; always 100 in the paper.
        param_dtype: dtype of the parameters; weights have it too if the inputs do.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = WeightNet(num_meta_classes=3)
        >>> losses, meta_class = jnp.array([0.1, 2.3]), jnp.array([0, 2])
        >>> weight_params = net.init(jax.random.key(0), losses, meta_class)
        >>> net.apply(weight_params, losses, meta_class).shape
        (2,)
    """

    num_meta_classes: int = 3
    hidden: int = 100
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, losses: jax.Array, meta_class: jax.Array) -> jax.Array:
        """Computes the weights of losses.

        Args:
            losses: [n] float, finite, on the raw scale of the loss (Q19).
            meta_class: [n] int in [0, K); other values give the weight NaN.

        Returns:
            [n] float in (0, 1).

        Raises:
            UsageError: the net has no heads or no hidden units.
        """
        if min(self.num_meta_classes, self.hidden) < 1:
            raise UsageError(
                f"WeightNet has num_meta_classes = {self.num_meta_classes} and hidden = {self.hidden}, "
                f"expected at least 1 of each"
            )
        layers = [
            nn.Dense(
                width,
                kernel_init=_uniform_by_fan_in(fan_in),
                bias_init=_uniform_by_fan_in(fan_in),
                param_dtype=self.param_dtype,
                name=name,
            )
            for name, width, fan_in in (
                ("shared", self.hidden, 1),
                ("heads", self.num_meta_classes, self.hidden),
            )
        ]
        shared, heads = layers
        logits = heads(nn.relu(shared(losses[:, None])))
        head = loud(meta_class, self.num_meta_classes)
        return nn.sigmoid(jnp.take_along_axis(logits, head[:, None], axis=1)[:, 0])


def weighting_functions(weight_fn, weight_params, losses: jax.Array, num_meta_classes: int) -> jax.Array:
    """Evaluates each meta-class's weighting function on a grid of losses (Fig. 2b, 2c).

    Args:
        weight_fn: `WeightNet(...).apply` or a function of the same signature.
        weight_params: the first argument of `weight_fn`.
        losses: [g] float, the grid.
        num_meta_classes: K.

    Returns:
        [K, g] float weights.
    """
    losses = jnp.asarray(losses)
    grid = len(losses)
    return jnp.stack(
        [weight_fn(weight_params, losses, jnp.full(grid, k, jnp.int32)) for k in range(num_meta_classes)]
    )
