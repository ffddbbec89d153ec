"""The mean loss of each training example over all its visits so far."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cmwnet_jax.core.lookup import loud
from cmwnet_jax.errors import UsageError

Array = jax.Array | np.ndarray


@struct.dataclass
class LossHistory:
    """Sum and number of each example's losses. A pytree, so that a compiled step can carry it.

    A classifier that has memorised a wrong label gives it a low loss. The mean over the epochs still contains
    the high losses from before.

    Attributes:
        total: [N] float, the sum of the example's losses; float64 on the host, else JAX's default float.
        count: [N] int32, the number of its visits.

    Example:
        >>> history = LossHistory.create(3).update(jnp.array([0, 2, 0]), jnp.array([1.0, 5.0, 3.0]))
        >>> history.mean.tolist(), history.count.tolist()
        ([2.0, nan, 5.0], [2, 0, 1])
    """

    total: Array
    count: Array

    @classmethod
    def create(cls, num_examples: int, *, on_host: bool = False) -> "LossHistory":
        """Makes a history without visits.

        Args:
            num_examples: N.
            on_host: makes NumPy arrays. Updates with NumPy arrays then stay on the host, in float64, and add
                repeated rows in order, so that their result has the same bits on any hardware.

        Raises:
            UsageError: N is below 1.
        """
        if num_examples < 1:
            raise UsageError(f"LossHistory.create: num_examples is {num_examples}, expected at least 1")
        if on_host:
            return cls(np.zeros(num_examples), np.zeros(num_examples, np.int32))
        return cls(jnp.zeros(num_examples), jnp.zeros(num_examples, jnp.int32))

    @property
    def mean(self) -> Array:
        """[N] float, each example's mean loss; NaN without a visit.

        NaN says that nothing is known: `lowest_loss` ranks it after all others, and a search for high losses
        does not find it.
        """
        xp = np if isinstance(self.total, np.ndarray) else jnp
        return xp.where(self.count > 0, self.total / xp.maximum(self.count, 1), xp.nan)

    def update(self, rows: Array, losses: Array, axis_name: str | Sequence[str] | None = None) -> "LossHistory":
        """Returns the history with these visits added.

        Args:
            rows: integers, e.g. [n], the examples' rows in [0, N). Each entry is one visit, so a row may be
                repeated. -1 stands for padding and is left out.
            losses: float, of the shape of `rows`. NaN and infinities are kept and stay in the example's mean.
            axis_name: axis of `pmap` or `shard_map`, if any. Each device then adds the visits of all devices.

        Raises:
            UsageError: rows and losses differ in shape, rows are no integers, or a row is below -1 or not below
                N. In a compiled function the values of rows are not known; there, such visits are left out.
        """
        rows, losses = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (rows, losses))
        self._check(rows, losses)
        if axis_name is not None:
            rows, losses = (_gathered(x, axis_name) for x in (rows, losses))
        rows, losses = rows.ravel(), losses.ravel()
        if all(isinstance(x, np.ndarray) for x in (self.total, rows, losses)):
            return self._added_on_host(rows, losses)
        total, count = jnp.asarray(self.total), jnp.asarray(self.count)
        place = loud(rows, len(total))
        return LossHistory(
            total.at[place].add(losses.astype(total.dtype), mode="drop"), count.at[place].add(1, mode="drop")
        )

    def _added_on_host(self, rows: np.ndarray, losses: np.ndarray) -> "LossHistory":
        total, count = self.total.copy(), self.count.copy()
        rows, losses = rows[rows >= 0].astype(np.intp), losses[rows >= 0].astype(total.dtype)
        np.add.at(total, rows, losses)  # with these dtypes ten times as fast as with others
        np.add.at(count, rows, count.dtype.type(1))
        return LossHistory(total, count)

    def _check(self, rows: Array, losses: Array) -> None:
        if rows.shape != losses.shape or not jnp.issubdtype(rows.dtype, jnp.integer):
            raise UsageError(
                f"LossHistory.update: rows are {rows.dtype} of shape {rows.shape} and losses have shape "
                f"{losses.shape}, expected integers and a loss for each: pass batch['row'], metrics['losses']"
            )
        if isinstance(rows, jax.core.Tracer) or not rows.size:
            return
        low, high, size = int(np.min(rows)), int(np.max(rows)), len(self.total)
        if low < -1 or high >= size:
            raise UsageError(
                f"LossHistory.update: rows are {low} to {high}, expected 0 to {size - 1}, or -1 for padding: "
                f"make the history with create(num_examples=N) for all N training examples"
            )


def _gathered(values: Array, axis_name: str | Sequence[str]) -> jax.Array:
    """The values of all devices, [D, ...], by a sum, whose result `shard_map` knows to be equal on all."""
    axis = axis_name if isinstance(axis_name, str) else tuple(axis_name)
    places = jnp.zeros((jax.lax.psum(1, axis), *values.shape), values.dtype)
    return jax.lax.psum(places.at[jax.lax.axis_index(axis)].set(values), axis)
