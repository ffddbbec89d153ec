"""CMW-Net-SL: weights that choose between the given label and a pseudo-label (Eq. 14, Algorithm 3).

`sum_i weights_i * loss(given_i) + (1 - weights_i) * loss(pseudo_i)` is affine in the weights: the terms are
the differences of the two losses, and base is the loss of the pseudo-labels. This module therefore needs no
step of its own; it has an objective and three small wrappers for the usual meta step:

    step = averaging(remembering(teaching(make_meta_step(objective=..., ...), predict)), momentum)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.mixing import Mixture, draw_mixture
from cmwnet_jax.core.objectives import meta_class_of, train_mode
from cmwnet_jax.core.types import MetaState, Metrics, Objective, ObjectiveFn, PyTree, StepFn, entry
from cmwnet_jax.errors import UsageError, unknown_name

SECOND_LOSSES = ("own", "partner")

_TEACHER = 0x74656163  # stream of the base key, separate from those of the steps


@struct.dataclass
class Teacher:
    """Moving average of the classifier over the steps (Algorithm 3, line 6).

    Attributes:
        params: averaged parameters, float32 or finer: in a coarser dtype, small changes would be rounded away.
        model_state: averaged running statistics (Q13).
    """

    params: PyTree
    model_state: PyTree


def averaging(step: StepFn, momentum: float | optax.Schedule) -> StepFn:
    """Wraps a step: first updates the teacher, an average of the classifier (Algorithm 3, line 6; Q12, Q13).

    `teacher = momentum * teacher + (1 - momentum) * classifier`, for both parameters and running statistics.
    With outdated statistics, the teacher's predictions would be useless.

    Args:
        step: (state, batch, ...) -> (state, metrics).
        momentum: in [0, 1], or a schedule.

    Returns:
        A step of the same signature; `state.teacher` must be a `Teacher`, which starts as the classifier (Q12).

    Raises:
        UsageError: the momentum is out of range; on the first call, if `state.teacher` is no `Teacher`.
    """
    if not callable(momentum) and not 0 <= momentum <= 1:
        raise UsageError(f"averaging: momentum is {momentum!r}, expected a number in [0, 1], or a schedule")
    momentum_at = momentum if callable(momentum) else lambda step: momentum

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        if not isinstance(state.teacher, Teacher):
            raise UsageError(
                "state.teacher is no Teacher: pass MetaState.create(..., teacher=Teacher(params, model_state))"
            )
        keep = momentum_at(state.step)
        classifier = Teacher(state.params, state.model_state)
        teacher = jax.tree.map(lambda old, new: _moved(old, new, keep), state.teacher, classifier)
        return step(state.replace(teacher=teacher), batch, *meta_batch)

    return run


def teaching(
    step: StepFn, predict: Callable[[Teacher, PyTree, jax.Array], jax.Array], axis_name: str | None = None
) -> StepFn:
    """Wraps a step: adds the teacher's probabilities as `batch["teacher"]`, [n, C] float.

    Args:
        step: (state, batch, ...) -> (state, metrics).
        predict: (teacher, batch, key) -> logits [n, C]; each device has its own key.
        axis_name: as the step's.

    Returns:
        A step of the same signature, for batches that are dictionaries.
    """

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        key = jax.random.fold_in(jax.random.fold_in(state.rng, _TEACHER), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        probabilities = jax.nn.softmax(predict(state.teacher, batch, key))
        return step(state, {**batch, "teacher": probabilities}, *meta_batch)

    return run


def ensembled(memory: jax.Array, prediction: jax.Array, momentum: float) -> jax.Array:
    """Temporal ensembling (Algorithm 3, line 7): `momentum * memory + (1 - momentum) * prediction`.

    An example without a memory (a row of zeros) takes the prediction unchanged. The paper starts from zero
    instead, so its first pseudo-labels would sum to 1 - momentum.

    Args:
        memory: [n, C] float, current pseudo-labels.
        prediction: [n, C] float, the teacher's probabilities.
        momentum: in [0, 1).

    Returns:
        [n, C] float, without gradient.
    """
    is_new = jnp.sum(memory, axis=-1, keepdims=True) == 0
    memory = memory.astype(prediction.dtype)
    mixed = momentum * memory + (1 - momentum) * prediction
    return jax.lax.stop_gradient(jnp.where(is_new, prediction, mixed))


def soft_label_objective(
    apply_fn: Callable,
    meta_classes: MetaClasses,
    *,
    momentum: float,
    mixup_alpha: float = 0.0,
    second_loss: str = "own",
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
    train_kwargs: Mapping[str, Any] | None = None,
) -> ObjectiveFn:
    """Makes CMW-Net-SL's objective (Eq. 14), optionally with the mixup of Algorithm 3.

    With mixup, where lambda = max(lambda, 1 - lambda), there are 2n terms, losses and weights: those of the
    mixed images with their own labels, then with their partners' labels. Use `normalize="mean"` in the step: a
    weight and one minus it already sum to one for each example (Q2). On several devices, each mixes its own
    part of the batch.

    Args:
        apply_fn, meta_classes, train_kwargs: as in `classification_objective`.
        momentum: momentum of temporal ensembling, in [0, 1); 0 uses the teacher's prediction only (Q11).
        mixup_alpha: lambda ~ Beta(alpha, alpha), the paper's gamma; 0 for no mixup.
        second_loss: the loss that determines the weight of a partner's label: "own", the loss of the mixed
            image with it (Algorithm 3); "partner", the partner's first loss (Q10).
        loss: (logits [n, C], labels [n] or [n, C]) -> [n].

    Returns:
        An `objective` for batches with `image`, `label` [n] int, `teacher` [n, C] (see `teaching`) and
        `memory` [n, C] (see `table.remembering`). Its `aux` is the new pseudo-labels [n, C].

    Raises:
        UsageError: momentum is not in [0, 1), mixup_alpha is negative or second_loss unknown.
    """
    if not 0 <= momentum < 1:
        raise UsageError(f"momentum is {momentum}, expected a number in [0, 1): 0 for no temporal ensembling")
    if mixup_alpha < 0:
        raise UsageError(f"mixup_alpha is {mixup_alpha}, expected at least 0: 0 for no mixup")
    if second_loss not in SECOND_LOSSES:
        raise unknown_name("second_loss", second_loss, SECOND_LOSSES)
    forward = train_mode(apply_fn, train_kwargs)

    def objective(params, model_state, batch, rng):
        mix_rng, rng = jax.random.split(rng)
        image, label, memory, teacher = (entry(batch, name) for name in ("image", "label", "memory", "teacher"))
        pseudo = ensembled(memory, teacher, momentum)
        mixture = None
        if mixup_alpha:
            mixture = draw_mixture(mix_rng, len(image), alpha=mixup_alpha, keep_larger=True)
            image = mixture.blend(image)
        logits, model_state = forward(params, model_state, image, rng)
        given, soft = loss(logits, label), loss(logits, pseudo)
        meta_class = meta_class_of(meta_classes, label, logits.shape[-1])
        out = Objective(given - soft, given, meta_class, jnp.mean(soft), pseudo)
        if mixture is not None:
            partners = (loss(logits, label[mixture.partner]), loss(logits, pseudo[mixture.partner]))
            out = with_partners(out, soft, partners, mixture, second_loss)
        return out, model_state

    objective.num_meta_classes = meta_classes.num_meta_classes
    objective.terms_per_example = 2 if mixup_alpha else 1
    return objective


def with_partners(
    own: Objective,
    own_soft: jax.Array,
    partners: tuple[jax.Array, jax.Array],
    mixture: Mixture,
    second_loss: str,
) -> Objective:
    """An objective for mixed images, whose 2n terms are those of the own labels, then of the partners'.

    Terms are doubled, because the step's mean is over 2n.

    Args:
        own: the objective of the mixed images with their own labels; its base is not used.
        own_soft: [n] float, their losses to their own pseudo-labels.
        partners: [n] float each, their losses to their partners' given labels and pseudo-labels.
        mixture: how the images were mixed.
        second_loss: as in `soft_label_objective`.
    """
    given, soft = partners
    share, partner = mixture.share.astype(given.dtype), mixture.partner
    seen = given if second_loss == "own" else own.losses[partner]
    return Objective(
        terms=2 * jnp.concatenate([share * own.terms, (1 - share) * (given - soft)]),
        losses=jnp.concatenate([own.losses, seen]),
        meta_class=jnp.concatenate([own.meta_class, own.meta_class[partner]]),
        base=jnp.mean(share * own_soft + (1 - share) * soft),
        aux=own.aux,
    )


def reporting_own_labels(step: StepFn) -> StepFn:
    """Wraps a step: reports only the losses and weights of the examples' own labels, [n] instead of [2n].

    The scalar `loss` stays the mean over both labels.

    Args:
        step: (state, batch, ...) -> (state, metrics), for batches with `label`.
    """

    def run(state: MetaState, batch: PyTree, *meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        state, metrics = step(state, batch, *meta_batch)
        n = len(batch["label"])
        return state, {**metrics, **{name: metrics[name][:n] for name in ("losses", "weights")}}

    return run


def _moved(old: jax.Array, new: jax.Array, keep: jax.Array | float) -> jax.Array:
    """Moving average of floats; counters and keys are taken from `new`."""
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new
    keep = jnp.asarray(keep, jnp.promote_types(old.dtype, jnp.float32))  # .999 would be 1 in bfloat16
    return (keep * old + (1 - keep) * new).astype(old.dtype)
