"""Devices and processes: the only module that knows how many there are."""

import contextlib
import functools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cmwnet_jax.core.table import Table, blocks, joined
from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.train.slurm import gpus_of_task

AXIS = "devices"
"""Name of the device axis in `pmap`."""


def use_compilation_cache() -> None:
    """Caches compiled programs on disk, so that later starts are fast.

    JAX's own settings take precedence: `JAX_COMPILATION_CACHE_DIR` moves the cache (default
    `~/.cache/cmwnet_jax`), `JAX_ENABLE_COMPILATION_CACHE=0` turns it off. There is no cache with several CPU
    devices: a program in micro-batches that was read from the cache ended the process with a segmentation fault
    in six of six trials, but never without the cache (jax 0.10.2, four virtual devices).
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        return
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/cmwnet_jax").expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def axis_name() -> str | None:
    """`AXIS` with several devices, None with one: collectives, which cost some 4%, are then not needed."""
    return AXIS if device_count() > 1 else None


def pmap(function: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
    """Compiles a function and maps it over all local devices, with the axis `AXIS`."""
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate_argnums)


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of this run; must be called before any other use of JAX.

    Arguments that are None are read from the environment; JAX knows SLURM, Open MPI, GKE and TPU pods.

    Args:
        coordinator: `HOST:PORT` of process 0.
        num_processes: the number of processes in the run.
        process_id: this process's number, from 0.

    Raises:
        UsageError: the environment lacks a value, the other processes do not answer, or an argument is wrong.
    """
    _check_processes(coordinator, num_processes, process_id)
    try:
        own = gpus_of_task(os.environ)
        jax.distributed.initialize(coordinator, num_processes, process_id, local_device_ids=own)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"--distributed found no run to join ({first_line(error)}): launch by srun under SLURM, Open MPI, "
            f"on GKE or a TPU pod, or give --coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error


def _check_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = (coordinator or "").rpartition(":")
    if coordinator is not None and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UsageError(
            f"--coordinator is {coordinator!r}, expected HOST:PORT of process 0, e.g. 10.0.0.1:1234"
        )
    if num_processes is not None and num_processes < 1:
        raise UsageError(f"--num_processes is {num_processes}, expected at least 1: give how many the run has")
    if process_id is not None and not 0 <= process_id < (num_processes or 2**31):
        raise UsageError(
            f"--process_id is {process_id}, expected a number from 0 to below --num_processes, "
            f"{num_processes}: number the processes from 0"
        )


def process_index() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def process_count() -> int:
    """The number of processes in the run."""
    return jax.process_count()


@contextlib.contextmanager
def scratch_unless_first(workdir: str) -> Iterator[str]:
    """Provides the folder that this process writes to: the run's for the first, a temporary one for others.

    Args:
        workdir: the run's folder.
    """
    if is_first():
        yield workdir
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch


def from_first(tree: PyTree) -> PyTree:
    """Broadcasts the first process's arrays to all processes."""
    if process_count() == 1:
        return tree
    is_key = [jnp.issubdtype(getattr(x, "dtype", np.int32), jax.dtypes.prng_key) for x in jax.tree.leaves(tree)]
    leaves, treedef = jax.tree.flatten(tree)
    plain = [jax.random.key_data(x) if key else x for x, key in zip(leaves, is_key, strict=True)]
    sent = multihost_utils.broadcast_one_to_all(plain)
    return treedef.unflatten(
        [jax.random.wrap_key_data(x) if key else x for x, key in zip(sent, is_key, strict=True)]
    )


def value_from_first(value: Any) -> Any:
    """Broadcasts the first process's value to all processes; the other processes' values are ignored.

    Args:
        value: any picklable value on the host.
    """
    if process_count() == 1:
        return value
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(content), np.int32)))
    sent = multihost_utils.broadcast_one_to_all(content if is_first() else np.zeros(size, np.uint8))
    return pickle.loads(np.asarray(sent).tobytes())


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call this at the same place."""
    return flag if process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return process_index() == 0


def replicate(tree: PyTree) -> PyTree:
    """Copies a tree to every local device: leaves [...] become [D, ...]. A `Table` is sharded by row."""
    return _apart(tree, _own_blocks, _copied)


def _apart(tree: PyTree, of_table: Callable[[Table], Table], of_arrays: Callable[[list], list]) -> PyTree:
    """Changes each `Table` of a tree by itself, and all other leaves in one call."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_table)
    arrays = iter(of_arrays([leaf for leaf in leaves if not _is_table(leaf)]))
    return treedef.unflatten([of_table(leaf) if _is_table(leaf) else next(arrays) for leaf in leaves])


def _is_table(node: PyTree) -> bool:
    return isinstance(node, Table)


def _own_blocks(table: Table) -> Table:
    """Puts this process's blocks of a whole table on its devices."""
    first = process_index() * jax.local_device_count()
    mine = slice(first, first + jax.local_device_count())
    return put(jax.tree.map(lambda values: values[mine], blocks(table, device_count())))


def _copied(tree: PyTree) -> PyTree:
    return _stack_on(tuple(jax.local_devices()))(jax.device_put(tree, _over_devices()))


@functools.cache
def _stack_on(devices: tuple[jax.Device, ...]) -> Callable[[PyTree], PyTree]:
    """One function per set of devices, so that arrays of known shapes are copied without compiling again."""
    return jax.jit(
        lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x[None], (len(devices), *x.shape)), tree),
        out_shardings=_over_devices(AXIS),
    )


def _over_devices(*axes: str) -> jax.sharding.NamedSharding:
    """Shards the leading axis over the local devices; without an axis, replicates."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def unreplicate(tree: PyTree) -> PyTree:
    """Takes the first device's copy: leaves [D, ...] become [...]. A `Table` is joined from all processes.

    If the tree contains a `Table`, all processes must call this at the same place.
    """
    return _apart(tree, _whole, _firsts)


def _firsts(arrays: list[jax.Array]) -> list[jax.Array]:
    return _without_axis([array.addressable_shards[0].data for array in arrays])


@jax.jit
def _without_axis(arrays: list[jax.Array]) -> list[jax.Array]:
    return [array[0] for array in arrays]


def _whole(table: Table) -> Table:
    own = jax.tree.map(np.asarray, table)
    return joined(own if process_count() == 1 else multihost_utils.process_allgather(own, tiled=True))


def gather(tree: PyTree) -> PyTree:
    """Gathers leaves over the devices, inside a mapped function: [n, ...] become [n of all devices, ...]."""
    if axis_name() is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


def share(rows: np.ndarray) -> np.ndarray:
    """Takes this process's part of the last axis: [..., n] becomes [..., D, n / (D * processes)]."""
    parts = rows.reshape(*rows.shape[:-1], jax.process_count(), jax.local_device_count(), -1)
    return parts[..., jax.process_index(), :, :]


def share_steps(rows: PyTree) -> PyTree:
    """Shares each step's rows over the devices: leaves [steps, n] become [D, steps, n / (D * processes)]."""
    return jax.tree.map(lambda leaf: share(leaf).transpose(1, 0, 2), rows)


def split(batch: PyTree) -> PyTree:
    """Splits a process's batch over its devices: leaves [n, ...] become [D, n / D, ...]."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)


def put(batch: PyTree) -> PyTree:
    """Starts copying a split batch, leaves [D, ...], to the devices."""
    return jax.device_put(batch, _over_devices(AXIS))


def device_count() -> int:
    """The number of devices of the whole run, over all processes."""
    return jax.device_count()


def check_divides(field: str, size: int, micro_batches: int = 1) -> None:
    """Raises a UsageError if a batch cannot be split evenly over the devices and their micro-batches."""
    count = device_count() * micro_batches
    if size % count:
        raise UsageError(
            f"{field} is {size}, expected a multiple of {in_words(micro_batches)}: "
            f"use {max(size // count, 1) * count}"
        )


def round_down(field: str, size: int, micro_batches: int = 1) -> int:
    """Rounds a size down to one that the devices and their micro-batches can share evenly.

    Raises:
        UsageError: there is less than one example for each.
    """
    count = device_count() * micro_batches
    if size < count:
        raise UsageError(
            f"{field} comes to {size}, expected at least one example for each of {in_words(micro_batches)}: "
            f"raise it"
        )
    return size // count * count


def in_words(micro_batches: int) -> str:
    """What shares a batch, e.g. `the run's 4 devices`.

    Args:
        micro_batches: parts of each device's batch.
    """
    parts = f" times micro_batches, {micro_batches}" if micro_batches > 1 else ""
    return f"the run's {device_count()} devices{parts}"


def describe() -> str:
    """Describes the run's devices, e.g. `4 x cpu`."""
    return f"{device_count()} x {jax.local_devices()[0].device_kind}"


def loops_are_slow(function: Callable, *arguments: PyTree) -> bool:
    """Whether steps should be called one at a time instead of scanned in one program.

    On CPU, XLA runs convolutions about 25 times slower inside a loop than outside.

    Args:
        function: the model's forward pass.
        *arguments: its arguments, or their shapes and dtypes.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in str(
        jax.make_jaxpr(function)(*arguments)
    )
