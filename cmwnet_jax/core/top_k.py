"""Per-example class probabilities of which the largest are stored, for tables that would be too large."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cmwnet_jax.core.table import Table
from cmwnet_jax.errors import UsageError

_BITS = 16
_WHOLE = 2**_BITS - 1  # stands for the probability 1, and is the largest class


@struct.dataclass
class TopK(Table):
    """`Table` whose rows are class probabilities [C]; it stores the k largest of each, scaled to sum to 1.

    `read` and `write` take and return whole rows [n, C]. A row of zeros stays one. A probability takes 4 bytes
    with its class, and is rounded to a multiple of 1/65,535.

    Attributes:
        values: [N, k] uint32, the class in the upper 16 bits and the probability in the lower ones.
        num_rows: N.
        num_classes: C, at most 65,536.
    """

    num_classes: int = struct.field(pytree_node=False, default=0)

    @classmethod
    def empty(cls, num_rows: int, num_classes: int, k: int) -> "TopK":
        """Makes a table of zeros, on the host.

        Args:
            num_rows: N.
            num_classes: C.
            k: probabilities per row, from 1 to C.

        Raises:
            UsageError: k is larger than C, or C than 65,536.
        """
        if not 1 <= k <= num_classes <= _WHOLE + 1:
            raise UsageError(
                f"TopK: k is {k} with {num_classes} classes, expected 1 to their number, which is at most "
                f"{_WHOLE + 1}"
            )
        return cls(np.zeros((num_rows, k), np.uint32), num_rows, num_classes)

    @classmethod
    def of_labels(cls, labels: np.ndarray, num_classes: int, k: int) -> "TopK":
        """Makes a table that is certain of these labels, on the host.

        Args:
            labels: [N] int in [0, C).
            num_classes: C.
            k: as in `empty`.
        """
        table = cls.empty(len(labels), num_classes, k)
        table.values[:, 0] = (labels.astype(np.uint32) << _BITS) | _WHOLE
        return table

    def read(self, rows: jax.Array, axis_name: str | None = None) -> jax.Array:
        """Reads whole rows [n, C] float32; arguments as in `Table.read`."""
        return self._or_nan(unpacked(self._stored(rows, axis_name), self.num_classes), rows)

    def write(self, rows: jax.Array, values: jax.Array, axis_name: str | None = None) -> "TopK":
        """Writes whole rows [n, C]; arguments as in `Table.write`."""
        return Table.write(self, rows, packed(values, self.values.shape[-1]), axis_name)


def packed(probabilities: jax.Array, k: int) -> jax.Array:
    """The k largest probabilities of each row, with their classes.

    Args:
        probabilities: [n, C] float, not negative.
        k: from 1 to C.

    Returns:
        [n, k] uint32, see `TopK.values`; the largest come first.

    Example:
        >>> words = packed(jnp.array([[0.1, 0.6, 0.3], [0.0, 0.0, 0.0]]), k=2)
        >>> np.asarray(unpacked(words, 3), np.float64).round(4).tolist()
        [[0.0, 0.6667, 0.3333], [0.0, 0.0, 0.0]]
    """
    kept, classes = jax.lax.top_k(probabilities.astype(jnp.float32), k)
    total = jnp.sum(kept, axis=-1, keepdims=True)
    shares = jnp.round(_WHOLE * kept / jnp.where(total > 0, total, 1))
    return (classes.astype(jnp.uint32) << _BITS) | shares.astype(jnp.uint32)


def unpacked(words: jax.Array, num_classes: int) -> jax.Array:
    """The probabilities from `packed`: [n, k] uint32 to [n, C] float32, zero for all other classes.

    Args:
        words: [n, k] uint32.
        num_classes: C.
    """
    shares, classes = (words & _WHOLE).astype(jnp.float32), (words >> _BITS).astype(jnp.int32)
    shares = shares / jnp.maximum(jnp.sum(shares, axis=-1, keepdims=True), 1)
    blank = jnp.zeros((len(words), num_classes), jnp.float32)
    return blank.at[jnp.arange(len(words))[:, None], classes].add(shares)  # empty words are all of class 0


class WholeRows:
    """A table's rows on the host, [N, C] float32, made as they are asked for: the whole may not fit."""

    def __init__(self, table: TopK):
        """Takes a whole table."""
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.asarray(unpacked(jnp.asarray(self._table.values[part]), self._table.num_classes))
