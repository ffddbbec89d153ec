"""Per-example memory of an objective, sharded by row over the devices.

Pseudo-labels [N, C] of a large data set (2.4 million examples of 1,000 classes are 9.6 GB) do not fit into the
memory of a device, so each device of the pmap axis keeps a block of rows. The rows of a batch are collected
from all devices; the result equals that of one device with the whole table (Q40).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cmwnet_jax.core.lookup import looked_up, loud
from cmwnet_jax.core.types import StepFn, entry
from cmwnet_jax.errors import UsageError


@struct.dataclass
class Table:
    """Array with one row per example: whole outside of a mapped function, one device's block inside.

    Attributes:
        values: [N, ...] float; on D devices [R, ...] each, R = ceil(N / D), the last rows padding.
        num_rows: N.
    """

    values: jax.Array
    num_rows: int = struct.field(pytree_node=False)

    @classmethod
    def full(cls, values: jax.Array | np.ndarray) -> "Table":
        """Makes a whole table.

        Args:
            values: [N, ...] float.

        Raises:
            UsageError: they are no floats.
        """
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise UsageError(f"values are {values.dtype}, expected [N, ...] floats: convert them")
        return cls(values, len(values))

    def read(self, rows: jax.Array, axis_name: str | None = None) -> jax.Array:
        """Reads the values [n, ...] of these rows, which may differ by device.

        Args:
            rows: [n] int32.
            axis_name: the pmap axis that the table is sharded over; None if it is whole.

        Returns:
            [n, ...] of the table's dtype; NaN for a row outside of [0, N).
        """
        return self._or_nan(self._stored(rows, axis_name), rows)

    def write(self, rows: jax.Array, values: jax.Array, axis_name: str | None = None) -> "Table":
        """Returns the table with new values in these rows.

        Args:
            rows: [n] int32, all different over all devices. Values of rows outside of [0, N) are dropped.
            values: [n, ...] of any float dtype; converted to the table's dtype.
            axis_name: as in `read`.

        Returns:
            A new table.
        """
        values, rows = values.astype(self.values.dtype), loud(rows, self.num_rows)
        if axis_name is None:
            return self.replace(values=jnp.asarray(self.values).at[rows].set(values, mode="drop"))
        rows, values = jax.lax.all_gather((rows, values), axis_name, tiled=True)
        place, is_here = self._places(rows, axis_name)
        place = jnp.where(is_here, place, len(self.values))
        return self.replace(values=self.values.at[place].set(values, mode="drop"))

    def _stored(self, rows: jax.Array, axis_name: str | None) -> jax.Array:
        """The rows as they are stored; zeros for a row outside of [0, N)."""
        if axis_name is None:
            return looked_up(self.values, rows, 0)
        place, is_here = self._places(jax.lax.all_gather(rows, axis_name, tiled=True), axis_name)
        found = looked_up(self.values, jnp.where(is_here, place, -1), 0)
        # All devices but one add zeros, so the sum is exactly the row, in any dtype.
        return jax.lax.psum_scatter(found, axis_name, scatter_dimension=0, tiled=True)

    def _or_nan(self, values: jax.Array, rows: jax.Array) -> jax.Array:
        """The values [n, ...], NaN where the row is outside of [0, N)."""
        is_row = loud(rows, self.num_rows) < self.num_rows
        return jnp.where(is_row.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.nan)

    def _places(self, rows: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
        """Positions of the rows in this device's block, and whether they are in it."""
        place = rows - jax.lax.axis_index(axis_name) * len(self.values)
        return place, (place >= 0) & (place < len(self.values))


def blocks(table: Table, num_devices: int) -> Table:
    """Splits a whole table into one block per device, [D, R, ...]; the last rows are padding of zeros.

    Args:
        table: a whole table.
        num_devices: D, over all processes.
    """
    rows = -(-table.num_rows // num_devices)
    padding = [(0, rows * num_devices - table.num_rows), *[(0, 0)] * (np.ndim(table.values) - 1)]
    padded = np.pad(np.asarray(table.values), padding)
    return table.replace(values=padded.reshape(num_devices, rows, *padded.shape[1:]))


def joined(table: Table) -> Table:
    """The whole table from its blocks [D, R, ...]."""
    values = np.asarray(table.values)
    return table.replace(values=values.reshape(-1, *values.shape[2:])[: table.num_rows])


def remembering(step: StepFn, axis_name: str | None = None) -> StepFn:
    """Wraps a step: reads `batch["memory"]` from the table and writes `Objective.aux` back to it.

    Args:
        step: (state, batch, ...) -> (state, metrics).
        axis_name: the pmap axis that the table is sharded over; None if it is whole.

    Returns:
        A step of the same signature. `state.memory` must be a `Table`, and the batch a dictionary with `row`
        [n] int32, the examples' rows in the table. The metrics have no `aux`.

    Raises:
        UsageError: on the first call, if `state.memory` is no `Table`, the batch has no `row`, or `aux` has
            another shape than the rows of the table.
    """

    def run(state, batch, *meta_batch):
        if not isinstance(state.memory, Table):
            raise UsageError("state.memory is no Table: pass MetaState.create(..., memory=Table.full(values))")
        seen = state.memory.read(entry(batch, "row"), axis_name)
        new_state, metrics = step(state, {**batch, "memory": seen}, *meta_batch)
        metrics = dict(metrics)
        new = metrics.pop("aux", ())
        if np.shape(new) != seen.shape:
            raise UsageError(
                f"Objective.aux has shape {np.shape(new)}, expected the new rows of state.memory, "
                f"{seen.shape}: return Objective(..., aux=rows)"
            )
        memory = state.memory.write(batch["row"], new, axis_name)
        return new_state.replace(memory=memory), metrics

    return run
