"""Losses and predictions of every example of a table, none dropped."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmwnet_jax.data.batches import Table, gather
from cmwnet_jax.losses import cross_entropy
from cmwnet_jax.train import parallel
from cmwnet_jax.types import MetaState

_CHUNK = 1000  # examples a device a call


def make_evaluate(model: nn.Module) -> Callable[[MetaState, Table, int], tuple[np.ndarray, np.ndarray]]:
    """(replicated state, replicated table, N) -> (losses [N] float32, predicted classes [N] int32).

    The model runs in evaluation mode. The last chunk is padded with row 0, and cut off again.
    """

    def chunk(params, model_state, table, rows):
        batch = gather(table, rows)
        logits = model.apply({"params": params, **model_state}, batch["image"], train=False)
        return cross_entropy(logits, batch["label"]), jnp.argmax(logits, axis=-1).astype(jnp.int32)

    run = parallel.pmap(chunk)

    def evaluate(state: MetaState, table: Table, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
        devices = len(table.labels)
        size = devices * min(_CHUNK, -(-num_examples // devices))
        padded = np.zeros(-(-num_examples // size) * size, np.int32)
        padded[:num_examples] = np.arange(num_examples)
        outputs = [
            run(state.params, state.model_state, table, rows.reshape(devices, -1))
            for rows in padded.reshape(-1, size)
        ]
        losses, predictions = (
            np.concatenate([np.ravel(part) for part in parts]) for parts in zip(*outputs, strict=True)
        )
        return losses[:num_examples], predictions[:num_examples]

    return evaluate
