"""Per-example losses: [n] out, never reduced."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example (Sec. 3.1), for hard or soft labels.

    Args:
        logits: [n, C] float.
        labels: [n] int class indices, or [n, C] float distributions.

    Returns:
        [n] float, in nats.
    """
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)
