"""Mixup: convex combinations of pairs of examples and of their labels (Sec. 4.2, Algorithm 3)."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cmwnet_jax.core.types import entry
from cmwnet_jax.errors import UsageError


@struct.dataclass
class Mixture:
    """Who is mixed with whom, and how much.

    Attributes:
        share: scalar float, lambda, what the example itself keeps.
        partner: [n] int32, the row each example is mixed with: a permutation.
    """

    share: jax.Array
    partner: jax.Array

    def blend(self, values: jax.Array) -> jax.Array:
        """`share * values + (1 - share) * values[partner]`.

        Args:
            values: [n, ...] float.

        Raises:
            UsageError: they are no floats, which a share of them would be cut to 0 in.
        """
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise UsageError(
                f"mixup: an array of shape {jnp.shape(values)} has dtype {values.dtype}, expected a float: "
                f"convert it before it is mixed, e.g. image.astype(float) / 255"
            )
        share = self.share.astype(values.dtype)
        return share * values + (1 - share) * values[self.partner]


def draw_mixture(rng: jax.Array, n: int, *, alpha: float = 1.0, keep_larger: bool = False) -> Mixture:
    """One lambda ~ Beta(alpha, alpha) and one permutation for a batch.

    Args:
        rng: a random key.
        n: examples in the batch.
        alpha: positive; 1 for meta batches (Sec. 4.2).
        keep_larger: take max(lambda, 1 - lambda), so that an example keeps at least half of
            itself, as the authors' code does in Sec. 4.2's runs and not in the others.

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
) -> dict[str, jax.Array]:
    """A batch with its images and labels mixed with those of a permutation of itself.

    Args:
        batch: `image` [n, ...] float and `label`, [n] int or [n, C] float; other entries stay as
            they are.
        rng: a random key.
        num_classes: C, needed where labels are class indices.
        alpha, keep_larger: as in `draw_mixture`.

    Returns:
        The batch with mixed `image` and soft `label` [n, C] float, NaN where a label was no class.

    Raises:
        UsageError: class indices without `num_classes` or not of shape [n], images that are no floats, or
            alpha is not positive.

    Example:
        >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 1])}
        >>> mixed = mix(batch, jax.random.key(0), num_classes=2)
        >>> bool(jnp.allclose(mixed["image"], mixed["label"]))
        True
    """
    image, label = entry(batch, "image"), entry(batch, "label")
    mixture = draw_mixture(rng, len(image), alpha=alpha, keep_larger=keep_larger)
    mixed_image = mixture.blend(image)
    if jnp.issubdtype(label.dtype, jnp.integer):
        if num_classes is None:
            raise UsageError("mix: labels are class indices, expected num_classes as well, to make them soft")
        if jnp.ndim(label) != 1:
            raise UsageError(
                f"mix: integer labels have shape {jnp.shape(label)}, expected [n] class indices: squeeze them, "
                f"or convert one-hot labels to float"
            )
        is_class = ((label >= 0) & (label < num_classes))[:, None]
        label = jnp.where(is_class, jax.nn.one_hot(label, num_classes, dtype=image.dtype), jnp.nan)
    return {**batch, "image": mixed_image, "label": mixture.blend(label)}


def mixed(function: Callable, **options) -> Callable:
    """An objective or a meta loss that sees batches mixed with themselves (Sec. 4.2, Algorithm 3).

    On several devices each mixes its own part of the batch.

    Args:
        function: (params, model_state, batch, rng) -> anything.
        **options: of `mix`.
    """

    @functools.wraps(function)
    def of_mixed(params, model_state, batch, rng):
        mix_rng, rng = jax.random.split(rng)
        return function(params, model_state, mix(batch, mix_rng, **options), rng)

    return of_mixed
