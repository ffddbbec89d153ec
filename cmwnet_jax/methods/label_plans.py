"""Labels that change between epochs, for methods that correct the labels that the classifier contradicts.

The current labels are a part of the state, so they are in every checkpoint. The data keep the given ones.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import objectives
from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.types import Objective, ObjectiveFn, PyTree
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import EpochStart, Method, Parts, Phase, Plan, one_classifier, the_classifier
from cmwnet_jax.methods.corrections import correction_arrays
from cmwnet_jax.methods.measure import Measure, Measured, measured, predict_classes
from cmwnet_jax.methods.steps import BatchStep

_LABELS, _RATIO = "labels", "ratio"  # entries of the state's `weight_params`


def correcting(
    parts: Parts,
    warmup: Phase,
    step: BatchStep,
    *,
    first_ratio: float,
    next_ratio: Callable[[float, float], float],
    **fields: Any,
) -> Method:
    """Builds the warm-up, then training on labels that are corrected before each epoch.

    A label becomes the predicted class where `p_label / p_predicted < ratio`, with the classifier's
    probabilities at the epoch's start, in evaluation mode and without augmentation.

    Args:
        parts: the pieces of the run.
        warmup: the first phase, on the given labels.
        step: the step of the second phase, which reads the stream `train`.
        first_ratio: the ratio of the first epoch after the warm-up, in (0, 1).
        next_ratio: (ratio, share of all labels that it has just changed) -> the next epoch's ratio.
        **fields: further fields of `Method`.

    Returns:
        The method. It leaves `corrected.npz`, and its steps report `labels_changed_percent`.
    """
    given = parts.data.biased.given.astype(np.int32)
    first = {_LABELS: given, _RATIO: np.float32(first_ratio)}
    main = Phase(_with_current_labels(step, parts.axis_name), first_epoch=parts.config.warmup_epochs)
    return parts.method(
        (warmup, main),
        initial=lambda *args: {**one_classifier(*args), "weight_params": jax.tree.map(jnp.asarray, first)},
        measure=_measure_current(parts),
        predict=predict_classes(parts.model),
        plan_epoch=lambda start: _plan(parts, start, next_ratio),
        leave=lambda state: {"corrected.npz": _corrected(parts, np.asarray(state.weight_params[_LABELS]))},
        **fields,
    )


def corrected_labels(found: Measured, labels: np.ndarray, ratio: float) -> np.ndarray:
    """Replaces a label by the predicted class where `p_label / p_predicted < ratio`.

    Args:
        found: a classifier's results on N examples, whose `losses` are those to `labels`.
        labels: [N] int, the current labels.
        ratio: in (0, 1); the smaller, the surer the classifier must be.

    Returns:
        [N] int32.
    """
    log_ratio = np.asarray(found.losses, np.float64) + np.log(np.asarray(found.confidence, np.float64))
    return np.where(log_ratio > -np.log(ratio), found.predictions, labels).astype(np.int32)


def new_weight_params(start: EpochStart, new: PyTree) -> dict[str, PyTree]:
    """Makes `Plan.state` of new values of `weight_params`.

    Args:
        start: the epoch's start.
        new: the structure of `start.state.weight_params` on the host; converted to its dtypes.
    """
    old = start.state.weight_params
    return {"weight_params": start.replicate(jax.tree.map(lambda x, by: np.asarray(by, x.dtype), old, new))}


def check_warmup(config: ConfigDict) -> None:
    """Raises a UsageError without a warm-up, as an untrained classifier tells nothing about the labels."""
    if config.warmup_epochs < 1:
        raise UsageError(
            f"warmup_epochs is {config.warmup_epochs}, expected at least 1 with {config.method}, which would "
            f"judge the labels by an untrained classifier: raise it"
        )


def _plan(parts: Parts, start: EpochStart, next_ratio: Callable[[float, float], float]) -> Plan:
    if start.number < parts.config.warmup_epochs:
        return Plan()
    current = start.state.weight_params
    labels, ratio = np.asarray(current[_LABELS][0]), float(current[_RATIO][0])
    variables = {**the_classifier(start.state)[""], _LABELS: current[_LABELS]}
    new = corrected_labels(start.measure("train", variables), labels, ratio)
    ratio = next_ratio(ratio, float(np.mean(new != labels)))
    return Plan(state=new_weight_params(start, {_LABELS: new, _RATIO: ratio}))


def _measure_current(parts: Parts) -> Measure:
    """Measures a classifier; if its variables come with current labels, against these."""

    def measure(variables, batch):
        variables = dict(variables)
        current = variables.pop(_LABELS, None)
        label = batch["label"] if current is None else current[batch["row"]]
        return measured(parts.model.apply(variables, batch["image"], train=False), label)

    return measure


def corrected_objective(parts: Parts) -> ObjectiveFn:
    """Makes cross-entropy with the current labels; its `losses` are those of the given ones, `given` [n].

    Args:
        parts: the pieces of the run.
    """
    forward = objectives.train_mode(parts.model.apply)

    def objective(params, model_state, batch, rng):
        logits, model_state = forward(params, model_state, batch["image"], rng)
        terms, meta_class = cross_entropy(logits, batch["label"]), jnp.zeros_like(batch["label"])
        return Objective(terms, given_losses(logits, batch), meta_class), model_state

    return objective


def given_losses(logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The losses [n] of the given labels, which the loss history averages, without gradient.

    Args:
        logits: [n, C].
        batch: `label` [n]; with `given` [n], where labels are corrected.
    """
    return cross_entropy(jax.lax.stop_gradient(logits), batch.get("given", batch["label"]))


def _with_current_labels(step: BatchStep, axis_name: str | None) -> BatchStep:
    """Wraps a step: gives it the current labels in place of the given ones, which become `given`."""

    def run(state, batch):
        train = batch["train"]
        label = state.weight_params[_LABELS][train["row"]]
        changed = objectives.mean_over_axis((label != train["label"]).astype(jnp.float32), axis_name)
        state, metrics = step(state, {**batch, "train": {**train, "label": label, "given": train["label"]}})
        return state, {**metrics, "labels_changed_percent": 100 * changed}

    return run


def _corrected(parts: Parts, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of corrected.npz, with probability 1 for each current label."""
    certain = np.eye(parts.num_classes, dtype=np.float32)[labels]
    return correction_arrays(parts.data, certain, parts.config.seed)
