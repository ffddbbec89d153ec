"""Lookups by index that are loud: an index outside of the array finds a fill value, not another entry."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from cmwnet_jax.errors import UsageError


def loud(index: ArrayLike, size: int) -> jax.Array:
    """The indices as int32; those outside of [0, size), also beyond int32, are `size`.

    Args:
        index: integers of any dtype, also of one that cannot hold `size`, as int8 cannot hold 128.
        size: number of entries that are looked up in.

    Raises:
        UsageError: the indices are fractions, which would be rounded.
    """
    dtype = jnp.result_type(index)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool)):
        raise UsageError(
            f"indices are {dtype}, expected integers (classes or rows): convert them, e.g. by astype(int)"
        )
    if not isinstance(index, jax.Array):  # compared before a conversion that would wrap them
        index = np.asarray(index).astype(np.int64)
        return jnp.asarray(np.where((index < 0) | (index > size), size, index), jnp.int32)
    index = index.astype(jnp.promote_types(dtype, jnp.int32))
    return jnp.where((index < 0) | (index > size), size, index).astype(jnp.int32)


def looked_up(values: ArrayLike, index: ArrayLike, fill_value: float) -> jax.Array:
    """The entries [n, ...] of `values` [size, ...] at `index` [n]; `fill_value` outside of [0, size).

    Args:
        values: [size, ...], equal on all devices.
        index: [n] int, which may be sharded; the result is then sharded alike.
        fill_value: the value for indices that are outside.
    """
    values = jnp.asarray(values)
    index = loud(index, len(values))
    # A mesh with Explicit axes does not infer this from values that are on no mesh.
    split = jax.typeof(index).sharding
    split = split.update(spec=type(split.spec)(*split.spec, *[None] * (values.ndim - 1)))
    return values.at[index].get(mode="fill", fill_value=fill_value, out_sharding=split)
