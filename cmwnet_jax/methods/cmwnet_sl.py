"""CMW-Net-SL: CMW-Net with mixup and pseudo-labels from a weight-averaged teacher (Sec. 3.6, Algorithm 3)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import objectives, soft_labels
from cmwnet_jax.core.soft_labels import Teacher
from cmwnet_jax.core.table import Table, remembering
from cmwnet_jax.core.top_k import TopK, WholeRows
from cmwnet_jax.core.types import MetaState, StepFn
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.methods import mixup, steps, weight_nets
from cmwnet_jax.methods.base import Method, Parts, Spec, Variables, one_classifier, the_classifier
from cmwnet_jax.methods.corrections import correction_arrays, pseudo_label_arrays
from cmwnet_jax.methods.elr import empty_table
from cmwnet_jax.methods.fields import Field, between, one_of, percent_of_steps, within
from cmwnet_jax.methods.plain import warmup, weighted_step
from cmwnet_jax.methods.weight_nets import with_weight_net

_OWN_FIELDS = {
    "soft_labels.momentum": Field(
        0.9,
        "cmwnet_sl only: momentum of an example's pseudo-label per visit, in [0, 1) (Q11).",
        within("[0, 1)"),
    ),
    "soft_labels.start_from": Field(
        "prediction",
        "cmwnet_sl only: initial pseudo-label: prediction (the teacher's first) or given (the given label).",
        one_of(("prediction", "given")),
    ),
    "soft_labels.teacher_momentum": Field(
        0.997,
        "cmwnet_sl only: momentum of the teacher's parameters per step, in [0, 1).",
        within("[0, 1]"),
    ),
    "soft_labels.freeze_teacher_at_percent": Field(
        100.0,
        "cmwnet_sl only: the teacher is frozen from this per cent of the steps on; 100: never.",
        percent_of_steps,
    ),
    "soft_labels.teacher_statistics": Field(
        "running",
        "cmwnet_sl only: statistics of the teacher's BatchNorm: running (running averages, as in "
        "evaluation) or batch (those of the current batch, Q16).",
        one_of(("running", "batch")),
    ),
    "soft_labels.second_loss": Field(
        "own",
        "cmwnet_sl only: the loss that gives the weight of a mixed-in label: own (its own loss, "
        "Algorithm 3) or partner (its partner's loss, Q10).",
        one_of(soft_labels.SECOND_LOSSES),
    ),
    "soft_labels.dtype": Field(
        "float32",
        "cmwnet_sl only: dtype of the stored pseudo-labels: float32 or bfloat16.",
        one_of(("float32", "bfloat16")),
    ),
    "soft_labels.top_k": Field(
        0,
        "cmwnet_sl only: the number of classes that a stored pseudo-label keeps, its most likely ones, at 4 "
        "bytes each; 0: all, in `soft_labels.dtype`.",
        between(0, 2**16),
    ),
}
"""Config fields of this method alone."""


def build(parts: Parts) -> Method:
    """Builds the method. The teacher averages from step 0 on; its labels are used after the warm-up (Q13)."""
    fields = parts.config.soft_labels
    objective = soft_labels.soft_label_objective(
        parts.model.apply,
        parts.meta_classes,
        momentum=fields.momentum,
        mixup_alpha=parts.config.mixup_alpha,
        second_loss=fields.second_loss,
    )
    kept, frozen_from = fields.teacher_momentum, parts.at_step(fields.freeze_teacher_at_percent)
    if frozen_from == 0:
        raise UsageError(
            f"soft_labels.freeze_teacher_at_percent is {fields.freeze_teacher_at_percent}, with which the "
            f"teacher would never learn: raise it"
        )

    def momentum(step):
        return jnp.where(step < frozen_from, kept, 1.0)

    def with_teacher(step: StepFn) -> StepFn:
        step = soft_labels.reporting_own_labels(step)
        step = soft_labels.teaching(step, _predict(parts), parts.axis_name)
        return soft_labels.averaging(remembering(step, parts.axis_name), momentum)

    before = soft_labels.averaging(weighted_step(parts, parts.objective()), momentum)
    return with_weight_net(
        parts,
        dataclasses.replace(warmup(parts), step=steps.weighted(before)),
        objective,
        "mean",  # an example's two weights, w and 1 - w, already sum to one (Q2)
        around=with_teacher,
        judge=the_teacher,
        initial=_with_teacher,
        memory=_table(parts),
        classifiers=lambda state: {**the_classifier(state), "teacher": the_teacher(state)},
        leave=lambda state: {
            "corrected.npz": correction_arrays(parts.data, _rows(state.memory), parts.config.seed),
            "pseudo_labels.npz": pseudo_label_arrays(parts.data, _rows(state.memory)),
        },
    )


def the_teacher(state: MetaState) -> Variables:
    """The teacher's variables. It predicts the pseudo-labels and selects the meta data (Q20).

    Args:
        state: a state of this method.
    """
    return {"params": state.teacher.params, **state.teacher.model_state}


def _with_teacher(*arguments) -> dict:
    """Initial fields of the state; the teacher starts as a copy of the classifier (Q12)."""
    fields = one_classifier(*arguments)
    return {**fields, "teacher": Teacher(fields["params"], fields["model_state"])}


def _table(parts: Parts) -> Table:
    """The initial pseudo-labels: the given labels, or zeros until the teacher's first prediction."""
    fields, num_classes = parts.config.soft_labels, parts.num_classes
    if fields.top_k:
        with naming_field("soft_labels.top_k"):
            empty = TopK.empty(parts.num_examples, num_classes, fields.top_k)
        return (
            TopK.of_labels(parts.data.biased.given, num_classes, fields.top_k)
            if fields.start_from == "given"
            else empty
        )
    table = empty_table(parts, jnp.dtype(fields.dtype))
    if fields.start_from == "given":
        table.values[np.arange(parts.num_examples), parts.data.biased.given] = 1
    return table


def _rows(table: Table) -> np.ndarray | WholeRows:
    """The pseudo-labels of a whole table, to be sliced."""
    return WholeRows(table) if isinstance(table, TopK) else table.values


def _predict(parts: Parts):
    """Makes the teacher's forward pass: with running statistics, or in train mode as published (Q16)."""
    if parts.config.soft_labels.teacher_statistics == "batch":
        forward = objectives.train_mode(parts.model.apply)
        return lambda teacher, batch, key: forward(teacher.params, teacher.model_state, batch["image"], key)[0]

    def predict(teacher, batch, key):
        del key
        return parts.model.apply({"params": teacher.params, **teacher.model_state}, batch["image"], train=False)

    return predict


def check(config: ConfigDict) -> None:
    """Raises a UsageError if fields contradict each other or nothing would be learned."""
    weight_nets.check(config)
    fields = config.soft_labels
    if fields.top_k and fields.dtype != "float32":
        raise UsageError(
            f"soft_labels.dtype is {fields.dtype!r}, but with soft_labels.top_k = {fields.top_k} a class takes "
            f"4 bytes in any case: set it to 'float32', or soft_labels.top_k to 0"
        )
    if not np.float32(config.soft_labels.teacher_momentum) < 1:
        raise UsageError(
            f"soft_labels.teacher_momentum is {config.soft_labels.teacher_momentum}, with which the teacher "
            f"would never learn: set it to less than 1"
        )
    if config.independent_examples and config.mixup_alpha:
        raise UsageError(
            f"independent_examples is True, but with mixup_alpha = {config.mixup_alpha} a mixed image has two "
            f"labels, so that two terms depend on it: set independent_examples to False, or mixup_alpha to 0"
        )


SPEC = Spec(
    "cmwnet_sl",
    build,
    check,
    num_meta_classes=lambda config: config.weight_net.num_meta_classes,
    fields={**weight_nets.FIELDS, **mixup.FIELDS, **_OWN_FIELDS},
    options=weight_nets.OPTIONS,
)
