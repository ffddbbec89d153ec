"""Mixup: convex combinations of pairs of examples and of their labels (Sec. 4.2, Algorithm 3)."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cmwnet_jax.core.lookup import loud
from cmwnet_jax.core.types import entry
from cmwnet_jax.errors import UsageError


@struct.dataclass
class Mixture:
    """Mixing coefficient and partners of a batch.

    Attributes:
        share: scalar float, lambda, the weight of the example itself.
        partner: [n] int32, the row that each example is mixed with; a permutation.
    """

    share: jax.Array
    partner: jax.Array

    def blend(self, values: jax.Array) -> jax.Array:
        """`share * values + (1 - share) * values[partner]`.

        Args:
            values: [n, ...] float.

        Returns:
            [n, ...] of the same dtype.

        Raises:
            UsageError: the values are not floats, so that the result would be truncated.
        """
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise UsageError(
                f"mixup: an array of shape {jnp.shape(values)} has dtype {values.dtype}, expected a float: "
                f"convert it before it is mixed, e.g. image.astype(float) / 255"
            )
        share, values = self.share.astype(values.dtype), jnp.asarray(values)
        partners = values.at[self.partner].get(out_sharding=jax.typeof(values).sharding)
        return share * values + (1 - share) * partners


def draw_mixture(rng: jax.Array, n: int, *, alpha: float = 1.0, keep_larger: bool = False) -> Mixture:
    """Draws one lambda ~ Beta(alpha, alpha) and one permutation for a batch.

    Args:
        rng: a random key.
        n: examples in the batch.
        alpha: positive; 1 for meta batches (Sec. 4.2).
        keep_larger: use max(lambda, 1 - lambda), so that the example itself has at least half of the weight.
            The authors' code does so in the runs of Sec. 4.2 only.

    Returns:
        A `Mixture`: `share` scalar float, `partner` [n] int32.

    Raises:
        UsageError: alpha is not positive.
    """
    if not 0 < alpha < math.inf:
        raise UsageError(f"mixup: alpha is {alpha!r}, expected a positive number (leave mixup out for none)")
    share_rng, partner_rng = jax.random.split(rng)
    share = jax.random.beta(share_rng, alpha, alpha)
    return Mixture(
        share=jnp.maximum(share, 1 - share) if keep_larger else share,
        partner=jax.random.permutation(partner_rng, n).astype(jnp.int32),
    )


def mix(
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
    *,
    num_classes: int | None = None,
    alpha: float = 1.0,
    keep_larger: bool = False,
    inputs: str = "image",
    label: str = "label",
) -> dict[str, jax.Array]:
    """Mixes a batch's images and labels with those of a permutation of the batch.

    Args:
        batch: `image` [n, ...] float (or a dictionary of such arrays) and `label`, [n] int or [n, C] float;
            other entries stay unchanged.
        rng: a random key.
        num_classes: C, needed if labels are class indices.
        alpha, keep_larger: as in `draw_mixture`.
        inputs, label: names of the two entries.

    Returns:
        The batch with mixed `image` and soft `label` [n, C] float, NaN where a label was not a class.

    Raises:
        UsageError: class indices come without `num_classes` or not in shape [n], images are not floats, or
            alpha is not positive.

    Example:
        >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 1])}
        >>> mixed = mix(batch, jax.random.key(0), num_classes=2)
        >>> bool(jnp.allclose(mixed["image"], mixed["label"]))
        True
    """
    shown, labels = entry(batch, inputs), entry(batch, label, nested=False)
    mixture = draw_mixture(rng, len(labels), alpha=alpha, keep_larger=keep_larger)
    mixed_inputs = jax.tree.map(mixture.blend, shown)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        if num_classes is None:
            raise UsageError("mix: labels are class indices, expected num_classes as well, to make them soft")
        if jnp.ndim(labels) != 1:
            raise UsageError(
                f"mix: integer labels have shape {jnp.shape(labels)}, expected [n] class indices: squeeze "
                f"them, or convert one-hot labels to float"
            )
        labels = loud(labels, num_classes)
        is_class = (labels < num_classes)[:, None]
        dtype = jax.tree.leaves(mixed_inputs)[0].dtype
        labels = jnp.where(is_class, jax.nn.one_hot(labels, num_classes, dtype=dtype), jnp.nan)
    return {**batch, inputs: mixed_inputs, label: mixture.blend(labels)}


def mixed(function: Callable, **options) -> Callable:
    """Wraps an objective or a meta loss: mixes each batch with itself first (Sec. 4.2, Algorithm 3).

    On several devices, each mixes its own part of the batch.

    Args:
        function: (params, model_state, batch, rng) -> anything.
        **options: arguments of `mix`.

    Returns:
        A function of the same signature.
    """

    @functools.wraps(function)
    def of_mixed(params, model_state, batch, rng):
        mix_rng, rng = jax.random.split(rng)
        return function(params, model_state, mix(batch, mix_rng, **options), rng)

    return of_mixed
