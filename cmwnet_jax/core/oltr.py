"""Open long-tailed recognition (OLTR): memory features, squashed cosines, the loss that spreads the centroids.

Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open World", with the settings of their code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.objectives import mean_over_axis, meta_class_of, outputs_in_train_mode
from cmwnet_jax.core.step_parts import psum
from cmwnet_jax.core.types import Objective, ObjectiveFn, entry

_LEAST_SQUARE = 1e-12  # of a distance; keeps the reachability of a feature that is a centroid finite


class MemoryOutputs(NamedTuple):
    """The outputs of a classifier with a memory of class centroids.

    Attributes:
        logits: [n, C] float, of the meta embedding.
        direct: [n, C] float, of the features alone: stage one's logits, whose softmax reads the memory.
        features: [n, F] float.
        centroids: [C, F] float, the memory, which is a parameter; all 0 before stage two.
    """

    logits: jax.Array
    direct: jax.Array
    features: jax.Array
    centroids: jax.Array


def meta_embedding(
    features: jax.Array, centroids: jax.Array, direct: jax.Array, selector: jax.Array, *, reach: float
) -> jax.Array:
    """Adds a memory feature to each feature, and scales the sum by how near the memory is (Sec. 3.1 there).

    `reach / min_c |f - c| * (f + tanh(selector) * softmax(direct) @ centroids)`

    Args:
        features: f, [n, F] float.
        centroids: c, [C, F] float.
        direct: [n, C] float, whose softmax is the attention on the centroids (the hallucinator).
        selector: [n, F] float, whose tanh selects concepts of the memory feature.
        reach: positive; 10 in the authors' code, 1 in the paper.

    Returns:
        [n, F] float.
    """
    memory = jax.nn.softmax(direct) @ centroids
    nearest = centroids[jnp.argmin(squared_distances(features, centroids), axis=-1)]
    square = jnp.sum((features - nearest) ** 2, axis=-1, keepdims=True)
    return reach * jax.lax.rsqrt(jnp.maximum(square, _LEAST_SQUARE)) * (features + jnp.tanh(selector) * memory)


def squared_distances(features: jax.Array, centroids: jax.Array) -> jax.Array:
    """|f - c|^2 of every feature and every centroid.

    Args:
        features: [n, F] float.
        centroids: [C, F] float.

    Returns:
        [n, C] float.
    """
    squares = [jnp.sum(x * x, axis=-1) for x in (features, centroids)]
    return jnp.maximum(squares[0][:, None] + squares[1][None] - 2 * features @ centroids.T, 0)


def squashed(embedding: jax.Array) -> jax.Array:
    """Shortens vectors to a length below 1, `v / (1 + |v|)`, so that longer ones are closer to it.

    This is the authors' code; their paper has `v |v| / (1 + |v|^2)`.

    Args:
        embedding: [n, F] float.
    """
    square = jnp.sum(embedding * embedding, axis=-1, keepdims=True)
    return embedding / (1 + jnp.sqrt(jnp.maximum(square, _LEAST_SQUARE)))


def centroid_loss(
    features: jax.Array,
    labels: jax.Array,
    centroids: jax.Array,
    *,
    margin: float,
    repel: float,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Attracts features to their own class's centroid, and repels them from the others' up to a margin.

    `mean_i |f_i - c_(y_i)|^2 / 2 + repel * max(0, margin - mean_(i, c) [c != y_i] |f_i - c|^2)`, where the
    second mean is over all C classes. As in the centre loss (Wen et al. 2016), the first part's gradient with
    respect to a centroid is divided by 1 plus the number of the class's examples in the batch.

    Args:
        features: [n, F] float.
        labels: [n] int32 in [0, C).
        centroids: [C, F] float.
        margin: of the mean squared distance; 10 in the authors' code.
        repel: factor of the second part; 0.01 there.
        axis_name: the step's device axis, if any; means and counts are over the examples of all devices.

    Returns:
        Scalar.
    """
    own = jax.nn.one_hot(labels, len(centroids), dtype=features.dtype)
    counts = psum(jnp.sum(own, axis=0), axis_name)
    stopped = jax.lax.stop_gradient
    attracts = jnp.sum((features - stopped(centroids)[labels]) ** 2, axis=-1) / 2
    moves = jnp.sum((stopped(features) - centroids[labels]) ** 2, axis=-1) / (2 * (1 + counts[labels]))
    attract = mean_over_axis(attracts + moves - stopped(moves), axis_name)
    others = jnp.sum((1 - own) * squared_distances(features, centroids), axis=-1) / len(centroids)
    return attract + repel * jnp.maximum(0, margin - mean_over_axis(others, axis_name))


def direct_objective(apply_fn: Callable, meta_classes: MetaClasses) -> ObjectiveFn:
    """Stage one's objective: the cross-entropies of the linear classifier.

    Args:
        apply_fn: as in `classification_objective`, but with `MemoryOutputs` as outputs.
        meta_classes: the meta-class of each of the C classes.

    Returns:
        An `objective` for batches with `image` and `label` [n] int32.
    """
    return _objective(apply_fn, meta_classes, lambda out: out.direct, lambda out, label: 0.0)


def oltr_objective(
    apply_fn: Callable,
    meta_classes: MetaClasses,
    *,
    strength: float,
    margin: float,
    repel: float,
    axis_name: str | tuple[str, ...] | None = None,
) -> ObjectiveFn:
    """Stage two's objective: terms and losses are cross-entropies, base is `strength` times `centroid_loss`.

    Args:
        apply_fn, meta_classes: as in `direct_objective`.
        strength: factor of the centroid loss; 0.01 in the authors' code.
        margin, repel, axis_name: as in `centroid_loss`.

    Returns:
        An `objective` for batches with `image` and `label` [n] int32.
    """
    settings = {"margin": margin, "repel": repel, "axis_name": axis_name}

    def base(out, label):
        return strength * centroid_loss(out.features, label, out.centroids, **settings)

    return _objective(apply_fn, meta_classes, lambda out: out.logits, base)


def _objective(
    apply_fn: Callable, meta_classes: MetaClasses, logits_of: Callable, base_of: Callable
) -> ObjectiveFn:
    forward = outputs_in_train_mode(apply_fn)

    def objective(params, model_state, batch, rng):
        label = entry(batch, "label")
        out, model_state = forward(params, model_state, entry(batch, "image"), rng)
        losses = cross_entropy(logits_of(out), label)
        meta_class = meta_class_of(meta_classes, label, out.logits.shape[-1])
        return Objective(losses, losses, meta_class, base_of(out, label)), model_state

    objective.num_meta_classes = meta_classes.num_meta_classes
    return objective
