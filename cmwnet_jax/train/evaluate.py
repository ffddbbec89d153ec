"""What the classifier makes of each example, in evaluation mode."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cmwnet_jax.losses import cross_entropy
from cmwnet_jax.types import PyTree


def make_measure(model: nn.Module) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, model_state, batch) -> (losses [n] float32, predicted classes [n] int32)."""

    def measure(params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]):
        logits = model.apply({"params": params, **model_state}, batch["image"], train=False)
        return cross_entropy(logits, batch["label"]), jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return measure
