"""FixMatch with CMW-Net in place of its threshold (Sec. 7.2.2, E.2).

A pseudo-label's weight is V(loss, meta-class of its class). The labelled examples are the meta data. The paper
does not say what N_i, the size of a class, is without labels: here the number of its pseudo-labels in the epoch
before, by which the classes are clustered into meta-classes at each epoch's start (Q61).
"""

import dataclasses
import warnings
from functools import partial

from ml_collections import ConfigDict

from cmwnet_jax.core import semi_supervised
from cmwnet_jax.core.semi_supervised import ClassSizes
from cmwnet_jax.core.types import StepFn
from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import fixmatch, meta_data, weight_nets
from cmwnet_jax.methods.base import EpochStart, Method, Parts, Plan, Spec, Stream
from cmwnet_jax.methods.fields import Field, one_of, shown, value_of
from cmwnet_jax.methods.plain import weighted_step

_OWN_FIELDS = {
    "fixmatch.weigh_by": Field(
        "strong",
        "fixmatch_cmwnet only: the loss that the weight net sees: strong (that of the strong view, with the "
        "pseudo-label) or weak (that of the weak view, from which FixMatch's threshold decides; Q60).",
        one_of(semi_supervised.WEIGH_BY),
    ),
    "fixmatch.shuffled_weights": Field(
        False,
        "fixmatch_cmwnet only: whether each unlabelled example gets the weight of another one of the batch, as "
        "a control; the weight net learns as usual.",
    ),
}
"""Config fields of this method alone."""

_UNREAD = {
    **dict.fromkeys(
        ("meta_set.kind", "meta_set.per_class_examples", "meta_set.pseudo_labels", "meta_set.rank_by"),
        "its meta data are the labelled examples",
    ),
    "weight_net.normalize": "its weights are in place of the threshold, whose divisor is the batch size",
}
"""Shared fields that this method does not read, and why."""


def build(parts: Parts) -> Method:
    """Builds Algorithm 1 on FixMatch's objective, without a warm-up."""
    fields, count = parts.config.fixmatch, parts.config.weight_net.num_meta_classes
    sizes = ClassSizes.alike(parts.num_classes, count, parts.num_examples)
    parts = dataclasses.replace(parts, meta_classes=sizes.meta_classes)
    objective = semi_supervised.fixmatch_objective(
        parts.model.apply,
        num_meta_classes=count,
        factor=fields.unlabelled_factor,
        weigh_by=fields.weigh_by,
    )

    if count > parts.num_classes:
        warnings.warn(
            f"weight_net.num_meta_classes is {count}, more than the {parts.num_classes} classes: some of the "
            f"weight net's heads see no example",
            stacklevel=2,
        )

    def around(step: StepFn) -> StepFn:
        if fields.shuffled_weights:
            weigh = {"weight_fn": weight_nets.weight_net(parts).apply, "normalize": "mean"}
            apart = weighted_step(parts, semi_supervised.shuffled(objective), **weigh)
            step = semi_supervised.learning_apart(step, apart)
        return fixmatch.averaged(parts, semi_supervised.counting(step, parts.axis_name))

    return weight_nets.with_weight_net(
        parts,
        None,
        objective,
        "mean",  # in place of the threshold, which leaves the mean over all examples
        around=around,
        streams=_streams(parts),
        plan_epoch=partial(_plan, parts),
        memory=sizes,
        refitted=lambda state: state.memory.meta_classes,
        **fixmatch.AVERAGED,
    )


def _streams(parts: Parts) -> dict[str, Stream]:
    """FixMatch's, and the labelled examples as meta data unless the weight net is frozen."""
    streams = fixmatch.streams_of(parts)
    if not parts.config.weight_net.frozen:
        streams[meta_data.META] = Stream(
            parts.config.meta_set.batch_size,
            "meta_set.batch_size",
            split="labelled",
            views={"image": Augmentation(**parts.config.augment)},
        )
    return streams


def _plan(parts: Parts, start: EpochStart) -> Plan:
    """Clusters the classes by the pseudo-labels of the epoch before."""
    sizes = start.read(start.state.memory).clustered(parts.num_examples)
    return Plan(state={"memory": start.replicate(sizes)})


def check(config: ConfigDict) -> None:
    """Raises a UsageError if fields contradict each other or nothing would be learned."""
    fixmatch.check(config)
    weight_nets.check(config)
    for name, reason in _UNREAD.items():
        value, default = value_of(config, name), weight_nets.FIELDS[name].default
        if value != default:
            raise UsageError(
                f"{name} is {shown(value)}, which {config.method} does not read, because {reason}: leave it "
                f"{shown(default)}"
            )


# One forward pass is of labelled and other images joined, which the check of the promise does not see through.
_OPTIONS = tuple(name for name in weight_nets.OPTIONS if name != "independent_examples")

SPEC = Spec(
    "fixmatch_cmwnet",
    build,
    check,
    check_data=fixmatch.check_data,
    num_meta_classes=lambda config: config.weight_net.num_meta_classes,
    clusters_labels=False,  # of the few examples with labels, all classes have as many
    follows_warmup=lambda config: False,
    fields={**weight_nets.FIELDS, **fixmatch.FIELDS, **_OWN_FIELDS},
    options=(*fixmatch.FIELDS, *_OWN_FIELDS, *_OPTIONS),
    classifier_field=fixmatch.CLASSIFIER_FIELD,
)
