"""The one place that knows how many devices there are."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.errors import UsageError
from cmwnet_jax.types import PyTree

AXIS = "devices"
"""Name of the pmap axis."""


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that a second start is quick.

    JAX's own settings win: `JAX_COMPILATION_CACHE_DIR` moves the cache (default
    `~/.cache/cmwnet_jax`), `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/cmwnet_jax").expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pmap(function: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
    """The function jitted and mapped over all local devices, with the axis `AXIS`."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate_argnums)


def replicate(tree: PyTree) -> PyTree:
    """A copy on every local device: leaves [...] become [D, ...]."""
    count = jax.local_device_count()
    stack = jax.jit(
        lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), tree),
        out_shardings=_over_devices(AXIS),
    )
    return stack(jax.device_put(tree, _over_devices()))


def _over_devices(*axes: str) -> jax.sharding.NamedSharding:
    """The leading axis over the local devices, or, without an axis, the whole on each."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def unreplicate(tree: PyTree) -> PyTree:
    """The first device's copy: leaves [D, ...] become [...]."""
    return jax.tree.map(lambda x: x[0], tree)


def split(batch: PyTree) -> PyTree:
    """Leaves [n, ...] become [D, n / D, ...]."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)


def split_steps(rows: np.ndarray) -> np.ndarray:
    """[steps, n] becomes [D, steps, n / D]; `join_steps` undoes it."""
    steps, size = rows.shape
    count = jax.local_device_count()
    return rows.reshape(steps, count, size // count).transpose(1, 0, 2)


def join_steps(values: jax.Array) -> np.ndarray:
    """[D, steps, n / D] becomes [steps, n]."""
    return np.asarray(values).transpose(1, 0, 2).reshape(values.shape[1], -1)


def put(batch: PyTree) -> PyTree:
    """Starts copying a split batch, leaves [D, ...], to the devices."""
    return jax.device_put(batch, _over_devices(AXIS))


def device_count() -> int:
    """D, the local devices."""
    return jax.local_device_count()


def check_divides(field: str, size: int) -> None:
    """Raises a UsageError where a batch cannot be split evenly over the local devices."""
    count = jax.local_device_count()
    if size % count:
        raise UsageError(
            f"{field} is {size}, expected a multiple of the {count} local devices: "
            f"use {max(size // count, 1) * count}"
        )


def round_down(field: str, size: int) -> int:
    """The largest size up to this one that the local devices can share evenly."""
    count = jax.local_device_count()
    if size < count:
        raise UsageError(f"{field} comes to {size}, expected at least one example for each of {count} devices")
    return size // count * count


def describe() -> str:
    """The local devices in words, e.g. `1 x cpu`."""
    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def loops_are_slow(function: Callable, *arguments: PyTree) -> bool:
    """Whether steps should be called one at a time instead of scanned in one program.

    On CPU, XLA runs convolutions inside a loop about 25 times slower than outside of one.

    Args:
        function: the model's forward pass.
        *arguments: of it; shapes are enough.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in str(
        jax.make_jaxpr(function)(*arguments)
    )
