"""FixMatch: few labels, and pseudo-labels that a threshold accepts (Sohn et al. 2020; Sec. 7.2, Eq. 17)."""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmwnet_jax.core import semi_supervised
from cmwnet_jax.core.soft_labels import Teacher, averaging
from cmwnet_jax.core.types import MetaState, StepFn
from cmwnet_jax.data import kinds
from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import (
    Method,
    Parts,
    Phase,
    Spec,
    Stream,
    Variables,
    one_classifier,
    the_classifier,
)
from cmwnet_jax.methods.fields import INT32, LARGE, Field, between, more_than_nothing, within
from cmwnet_jax.methods.plain import weighted_step

LABELLED, UNLABELLED = "labelled", "unlabelled"
"""The streams: the labelled examples, and all training images, the labelled ones too."""

FIELDS = {
    "fixmatch.labelled_batch_size": Field(
        64,
        "Labelled examples per step, over all devices; batch_size is the number of unlabelled ones.",
        between(1, INT32),
    ),
    "fixmatch.unlabelled_factor": Field(
        1.0,
        "Factor of the unlabelled loss (alpha of Eq. 17, FixMatch's lambda_u).",
        between(0, LARGE),
    ),
    "fixmatch.average_momentum": Field(
        0.999,
        "Momentum per step of the averaged classifier, which is the one tested, in [0, 1). At step t it is at "
        "most (1 + t) / (10 + t), so that short runs are not tested near their start (Q62).",
        within("[0, 1)"),
    ),
    "fixmatch.rand_ops": Field(
        2,
        "RandAugment operations of the strong view, after the weak view's changes, which `augment` sets.",
        between(0, 100),
    ),
    "fixmatch.cutout_percent": Field(
        50.0,
        "Side of the grey square in the strong view, in per cent of the image's shorter side; 0: none.",
        between(0, 100),
    ),
}
"""Config fields of FixMatch with any weights."""

_OWN_FIELDS = {
    "fixmatch.threshold": Field(
        0.95,
        "fixmatch only: pseudo-labels count if the highest probability is at least this; 0: all count.",
        within("[0, 1)"),
    ),
}
"""Config fields of this method alone."""


def build(parts: Parts) -> Method:
    """Builds FixMatch, without a warm-up. An epoch is one pass over the unlabelled images, or `epoch_steps`."""
    fields = parts.config.fixmatch
    objective = semi_supervised.fixmatch_objective(
        parts.model.apply, factor=fields.unlabelled_factor, weigh_by="weak"
    )
    step = weighted_step(
        parts,
        objective,
        weight_fn=semi_supervised.threshold_weights(fields.threshold),
        normalize="mean",
    )
    step = averaged(parts, semi_supervised.reporting_labels(step))
    streams = streams_of(parts)
    phase = Phase(steps.weighted(step, stream=None), streams=tuple(streams), weighs=True)
    return parts.method((phase,), streams=streams, may_weigh_nothing=True, **AVERAGED)


def streams_of(parts: Parts) -> dict[str, Stream]:
    """Makes the streams: weak views of the labelled images, weak and strong views of all.

    Args:
        parts: the pieces of the run.
    """
    fields, weak = parts.config.fixmatch, Augmentation(**parts.config.augment)
    side = min(parts.data.image_shape[:2])
    strong = dataclasses.replace(
        weak, rand_ops=fields.rand_ops, cutout_pixels=round(fields.cutout_percent / 100 * side)
    )
    labelled_size = "fixmatch.labelled_batch_size"
    return {
        LABELLED: Stream(fields.labelled_batch_size, labelled_size, split="labelled", views={"weak": weak}),
        UNLABELLED: Stream(parts.config.batch_size, "batch_size", views={"weak": weak, "strong": strong}),
    }


def averaged(parts: Parts, step: StepFn) -> StepFn:
    """Wraps a step: averages the classifier over the steps.

    Args:
        parts: the pieces of the run.
        step: (state, batch, ...) -> (state, metrics).
    """
    most = parts.config.fixmatch.average_momentum

    def momentum(step: jax.Array) -> jax.Array:
        return jnp.minimum(most, (1 + step) / (10 + step))

    return averaging(step, momentum)


def _initial(*arguments) -> dict:
    fields = one_classifier(*arguments)
    return {**fields, "teacher": Teacher(fields["params"], fields["model_state"])}


def _classifiers(state: MetaState) -> dict[str, Variables]:
    """The averaged classifier is the run's; the latest one is tested, too."""
    average = {"params": state.teacher.params, **state.teacher.model_state}
    return {"": average, "latest": the_classifier(state)[""]}


AVERAGED = {
    "main_stream": UNLABELLED,
    "initial": _initial,
    "classifiers": _classifiers,
    "predict": None,  # there are no given labels to audit
}
"""Fields of `Method` for steps of `averaged`."""

CLASSIFIER_FIELD = "teacher"
"""The averaged classifier, for `Spec`."""


def check(config: ConfigDict) -> None:
    """Raises a UsageError if the unlabelled loss has no part in the training."""
    more_than_nothing(config, "fixmatch.unlabelled_factor")


def check_data(config: ConfigDict, data: Data) -> None:
    """Raises a UsageError for data without images, or whose examples all have labels, or sets of candidates."""
    if data.kind != kinds.IMAGES:
        raise UsageError(
            f"method is {config.method!r}, which augments images, but {config.data.name} holds {data.kind}: "
            f"take another method"
        )
    if data.biased.candidates is not None or data.biased.is_labelled.all():
        raise UsageError(
            f"method is {config.method!r}, which learns from a few labels and many images without, but "
            f"{data.record.name!r} labels every example: set data.bias to e.g. 'labels_250'"
        )


SPEC = Spec(
    "fixmatch",
    build,
    check,
    check_data=check_data,
    follows_warmup=lambda config: False,
    fields={**FIELDS, **_OWN_FIELDS},
    options=(*FIELDS, *_OWN_FIELDS),
    classifier_field=CLASSIFIER_FIELD,
)
