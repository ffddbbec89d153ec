"""FixMatch, and CMW-Net in place of its threshold (Sohn et al. 2020; Sec. 7.2, Eq. 17 and the one after it).

The labelled loss is the base, and each unlabelled example has a term: the loss of its strongly augmented view
with the class that the classifier predicts for its weakly augmented view. A threshold and a weight net are two
choices of `weight_fn`. With `normalize="mean"`, the steps of `meta_step` minimise

    mean(labelled losses) + factor * mean(weights * unlabelled losses)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cmwnet_jax.core.losses import LossFn, cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.objectives import train_mode
from cmwnet_jax.core.step_parts import psum
from cmwnet_jax.core.types import (
    MetaState,
    Metrics,
    Objective,
    ObjectiveFn,
    PyTree,
    StepFn,
    WeightFn,
    entry,
    with_attributes_of,
)
from cmwnet_jax.errors import UsageError, unknown_name

WEIGH_BY = ("strong", "weak")

OF_CLASS = "meta_class_of_class"
"""Entry of the batch with the meta-class of each class, see `counting`."""


def fixmatch_objective(
    apply_fn: Callable,
    *,
    num_meta_classes: int = 1,
    factor: float = 1.0,
    weigh_by: str = "strong",
    loss: LossFn = cross_entropy,
    train_kwargs: Mapping[str, Any] | None = None,
) -> ObjectiveFn:
    """Makes FixMatch's objective (Eq. 17), whose weights may be those of a threshold or of a weight net.

    All views go through the classifier in one forward pass, so that BatchNorm normalises them together. The
    pseudo-labels have no gradient.

    Args:
        apply_fn, train_kwargs: as in `objectives.classification_objective`.
        num_meta_classes: K, the number of meta-classes.
        factor: the paper's alpha, FixMatch's lambda_u, of the unlabelled loss.
        weigh_by: the loss that determines an example's weight: "strong", that of its strong view, i.e. its own
            term; "weak", that of its weak view, -log of the highest probability (Q60).
        loss: (logits [n, C], labels [n]) -> [n].

    Returns:
        An `objective` for batches of two streams: `labelled` with the entries `weak` [m, ...] and `label` [m]
        int, and `unlabelled` with `weak` and `strong` [n, ...]. With K > 1, the entry `meta_class_of_class`
        [n, C] int32 holds the meta-class of each class, in equal rows, since a batch can be cut. Terms, losses
        and meta-classes [n] are those of the unlabelled examples; `aux` is their pseudo-labels [n] int32.

    Raises:
        UsageError: `factor` is not positive or `weigh_by` unknown; on the first call, if an entry is missing or
            `meta_class_of_class` has another shape.
    """
    if not factor > 0:
        raise UsageError(f"factor is {factor}, expected a positive number: the unlabelled loss needs one")
    if weigh_by not in WEIGH_BY:
        raise unknown_name("weigh_by", weigh_by, WEIGH_BY)
    forward = train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        labelled, unlabelled = entry(batch, "labelled"), entry(batch, "unlabelled")
        label = entry(labelled, "label", "batch['labelled']")
        views = [
            entry(labelled, "weak", "batch['labelled']"),
            *(entry(unlabelled, name, "batch['unlabelled']") for name in ("weak", "strong")),
        ]
        logits, model_state = forward(params, model_state, jnp.concatenate(views), rng)
        own, weak, strong = jnp.split(logits, [len(label), len(label) + len(views[1])])
        weak = jax.lax.stop_gradient(weak)
        pseudo = jnp.argmax(weak, axis=-1).astype(jnp.int32)
        losses = loss(strong, pseudo)
        return Objective(
            terms=factor * losses,
            losses=losses if weigh_by == "strong" else cross_entropy(weak, pseudo),
            meta_class=jnp.zeros_like(pseudo) if num_meta_classes == 1 else _of_pseudo(batch, strong, pseudo),
            base=jnp.mean(loss(own, label)),
            aux=pseudo,
        ), model_state

    objective.num_meta_classes = num_meta_classes
    return objective


def _of_pseudo(batch: PyTree, logits: jax.Array, pseudo: jax.Array) -> jax.Array:
    """The meta-classes [n] of the pseudo-labels [n], by the batch's entry for them."""
    of_class = entry(batch, OF_CLASS)
    if jnp.shape(of_class) != logits.shape:
        raise UsageError(
            f"batch[{OF_CLASS!r}] has shape {jnp.shape(of_class)}, expected a row of all classes for each "
            f"unlabelled example, {logits.shape}: wrap the step by counting(), or repeat the row"
        )
    return jnp.take_along_axis(of_class, pseudo[:, None], axis=1)[:, 0]


def threshold_weights(threshold: float) -> WeightFn:
    """FixMatch's weights: 1 where the highest probability of the weak view is at least the threshold, else 0.

    Args:
        threshold: tau, in [0, 1]; 0 gives every example the weight 1.

    Returns:
        A `weight_fn` for an objective with `weigh_by="weak"`, whose losses are -log of these probabilities.

    Example:
        >>> threshold_weights(0.95)((), -jnp.log(jnp.array([0.9, 0.96])), None)
        Array([0., 1.], dtype=float32)
    """
    highest = -np.log(threshold) if threshold > 0 else np.inf
    return lambda weight_params, losses, meta_class: (losses <= highest).astype(losses.dtype)


def shuffled(objective: ObjectiveFn) -> ObjectiveFn:
    """Wraps an objective: each example gets the weight of another one of the batch, as a control.

    The weights keep their distribution and carry no information on the examples. On several devices, each
    shuffles its own part of the batch.
    """

    @with_attributes_of(objective)
    def with_others(params, model_state, batch, rng):
        own_rng, rng = jax.random.split(rng)
        out, model_state = objective(params, model_state, batch, rng)
        order = jax.random.permutation(own_rng, len(out.losses))
        return out._replace(losses=out.losses[order], meta_class=out.meta_class[order]), model_state

    return with_others


def learning_apart(meta_step: StepFn, weighted_step: StepFn) -> StepFn:
    """Makes a step whose weight net learns by one step, and whose classifier learns by another.

    Args:
        meta_step: (state, batch, meta_batch) -> (state, metrics); only its weight net is used.
        weighted_step: (state, batch) -> (state, metrics), with the new weight net.
    """

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        if not meta_batch:  # between meta steps
            return weighted_step(state, batch)
        learned, found = meta_step(state, batch, *meta_batch)
        fields = {name: getattr(learned, name) for name in ("weight_params", "weight_opt_state")}
        state, metrics = weighted_step(state.replace(**fields), batch)
        return state, {**metrics, **{name: found[name] for name in ("meta_loss", "meta_grad_norm")}}

    return run


@struct.dataclass
class ClassSizes:
    """Sizes of the classes by pseudo-label, and the meta-classes that they were clustered into.

    Attributes:
        counts: [C] int32, pseudo-labels of each class since the last clustering.
        of_class: [C] int32, the meta-class of each class.
        centers: [K] float32, the centres of the meta-classes, in training examples per class.
    """

    counts: jax.Array
    of_class: jax.Array
    centers: jax.Array

    @classmethod
    def alike(cls, num_classes: int, num_meta_classes: int, num_examples: int) -> "ClassSizes":
        """The sizes before any pseudo-label: all alike, so that all classes are in meta-class 0.

        Args:
            num_classes: C.
            num_meta_classes: K.
            num_examples: N, the training examples.
        """
        return cls(
            counts=np.zeros(num_classes, np.int32),
            of_class=np.zeros(num_classes, np.int32),
            centers=np.full(num_meta_classes, num_examples / num_classes, np.float32),
        )

    @property
    def meta_classes(self) -> MetaClasses:
        """The current meta-classes, on the host."""
        return MetaClasses(np.asarray(self.centers, np.float64), np.asarray(self.of_class))

    def clustered(self, num_examples: int) -> "ClassSizes":
        """Clusters the classes by their shares of the pseudo-labels; counting starts again. On the host.

        Args:
            num_examples: N, which the shares are multiplied by to give class sizes.

        Returns:
            Itself, if nothing has been counted.
        """
        counts = np.asarray(self.counts, np.float64)
        if not counts.any():
            return self
        found = MetaClasses.of_counts(num_examples * counts / counts.sum(), len(self.centers))
        return ClassSizes(np.zeros_like(self.counts), found.of_class, found.centers.astype(np.float32))


def counting(step: StepFn, axis_name: str | None = None) -> StepFn:
    """Wraps a step: counts the pseudo-labels, and gives the objective the meta-class of each class.

    Args:
        step: (state, batch, ...) -> (state, metrics), whose `aux` is pseudo-labels [n] int32.
        axis_name: as the step's.

    Returns:
        A step of the same signature; `state.memory` must be a `ClassSizes`. The metrics have the pseudo-labels
        as `labels` and no `aux`.

    Raises:
        UsageError: on the first call, if `state.memory` is no `ClassSizes` or the batch has no unlabelled
            examples.
    """
    step = reporting_labels(step)

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        sizes = state.memory
        if not isinstance(sizes, ClassSizes):
            raise UsageError(
                "state.memory is no ClassSizes: pass MetaState.create(..., memory=ClassSizes.alike())"
            )
        n = len(entry(entry(batch, "unlabelled"), "strong", "batch['unlabelled']"))
        rows = jnp.broadcast_to(sizes.of_class, (n, *jnp.shape(sizes.of_class)))
        state, metrics = step(state, {**batch, OF_CLASS: rows}, *meta_batch)
        found = jnp.zeros_like(sizes.counts).at[metrics["labels"]].add(1)
        counted = sizes.replace(counts=sizes.counts + psum(found, axis_name))
        return state.replace(memory=counted), metrics

    return run


def reporting_labels(step: StepFn) -> StepFn:
    """Wraps a step: reports `aux`, the pseudo-labels [n] int32 of its examples, as `labels`.

    Args:
        step: (state, batch, ...) -> (state, metrics).
    """

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        state, metrics = step(state, batch, *meta_batch)
        metrics = dict(metrics)
        metrics["labels"] = metrics.pop("aux")
        return state, metrics

    return run
