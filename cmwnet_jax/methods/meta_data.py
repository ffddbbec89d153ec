"""Meta data for methods that learn weights: the stream `meta`, selected at each epoch (Sec. 4.2, B.1)."""

from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import mixing, objectives
from cmwnet_jax.core.types import MetaLossFn, MetaState
from cmwnet_jax.data import meta_set
from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import EpochStart, Parts, Plan, Stream, Variables, the_classifier
from cmwnet_jax.methods.fields import INT32, Field, between, is_nothing, one_of

META = "meta"
"""The stream's name."""

META_SETS = ("lowest_loss", "balanced", "held_out")
RANKINGS = ("now", "history")


FIELDS = {
    "meta_set.kind": Field(
        "lowest_loss",
        "Source of the meta set: lowest_loss (per epoch and class, the training examples of lowest loss; "
        "needs no clean data, Sec. 4.2), balanced (per epoch and class, random training examples, B.1) or "
        "held_out (clean examples set apart from training).",
        one_of(META_SETS),
    ),
    "meta_set.per_class_examples": Field(
        10,
        "Maximum number of meta examples per class.",
        between(1, INT32),
    ),
    "meta_set.rank_by": Field(
        "history",
        "lowest_loss only: losses by which examples are ranked: now (the classifier's, from a pass over the "
        "training set at each epoch) or history (each example's mean loss in the steps so far, warm-up "
        "included; a pass only in epochs in which too few examples of a class have been visited). Q72.",
        one_of(RANKINGS),
        older="now",
    ),
    "meta_set.pseudo_labels": Field(
        False,
        "Whether the meta loss uses the classifier's predicted classes instead of the given labels (Q20). "
        "Under asymmetric noise, these are wrong in the classes that have lost their labels.",
    ),
    "meta_set.mixup": Field(
        True,
        "Whether mixup with Beta(1, 1) is applied to each meta batch. The paper does so for lowest_loss "
        "(Sec. 4.2, B.2), not for clean meta data.",
        older=False,
    ),
    "meta_set.batch_size": Field(
        100,
        "Meta examples per step, over all devices; a smaller meta set is used whole.",
        between(1, INT32),
    ),
}
"""Config fields of the meta data."""


def meta_loss(parts: Parts, plain: MetaLossFn | None = None) -> MetaLossFn:
    """Makes the meta loss, on a mixed meta batch if the config says so (Sec. 4.2).

    Args:
        parts: the pieces of the run.
        plain: the meta loss of a meta batch as it is; None for the mean cross-entropy.
    """
    plain = objectives.classification_meta_loss(parts.model.apply) if plain is None else plain
    return mixing.mixed(plain, num_classes=parts.num_classes) if parts.config.meta_set.mixup else plain


def meta_fields(
    parts: Parts, judge: Callable[[MetaState], Variables] = lambda state: the_classifier(state)[""]
) -> dict:
    """Makes the fields of `Method` that provide meta data.

    Args:
        parts: the pieces of the run.
        judge: state -> variables of the classifier whose losses and predictions select the meta set (Q20).
    """
    return {
        "streams": {"train": parts.train_stream, META: _stream(parts)},
        "plan_epoch": lambda start: _plan(parts, start, judge),
        "describe_plan": lambda selections: _numbers(parts, selections),
    }


def check(config: ConfigDict) -> None:
    """Raises a UsageError if fields contradict each other."""
    if config.meta_set.kind == "held_out" and config.meta_set.pseudo_labels:
        raise UsageError(
            "meta_set.pseudo_labels is True, but held_out meta data have true labels: set it to False"
        )


def check_virtual_step(config: ConfigDict) -> None:
    """Raises a UsageError if the virtual step (Eq. 7) has no usable learning rate."""
    fields = config.optimizer
    rate = fields.virtual_learning_rate
    if is_nothing(rate) and (rate or fields.name != "sgd"):
        raise UsageError(
            f"optimizer.virtual_learning_rate is {rate}, expected more than 0 where {config.method} learns "
            f"weights with {fields.name}: its look-ahead is a step of plain SGD, which the optimiser's own "
            f"learning rate serves with sgd alone (0.0); try 10.0"
        )


def _stream(parts: Parts) -> Stream:
    fields = parts.config.meta_set
    return Stream(
        split="held_out" if fields.kind == "held_out" else "train",
        batch_size=fields.batch_size,
        field="meta_set.batch_size",
        planned=True,
        least_planned=_size(parts),
        planned_by=f"meta_set.per_class_examples is {fields.per_class_examples}: the meta set",
        views={"image": Augmentation(**parts.config.augment)},
    )


def _size(parts: Parts) -> int:
    """The number of examples in an epoch's meta set."""
    fields, counts = parts.config.meta_set, parts.data.biased.class_counts
    if fields.kind == "held_out":
        return len(parts.data.record.held_out)
    most = fields.per_class_examples
    if fields.kind == "balanced":
        most = min(most, int(np.min(counts[counts > 0])))
    return int(np.sum(np.minimum(counts, most)))


def _plan(parts: Parts, start: EpochStart, judge: Callable[[MetaState], Variables]) -> Plan:
    """Selects this epoch's meta set; none in the warm-up, which learns no weights."""
    config, data = parts.config, parts.data
    if start.number < config.warmup_epochs:
        return Plan()
    fields, labels, history = config.meta_set, data.biased.given, start.loss_history
    if fields.kind == "held_out":
        ids = data.record.held_out
        return Plan({META: Selection(np.arange(len(ids)), data.true_labels[ids])})
    by_history = fields.rank_by == "history" and _knows_enough(parts, history.count)
    measured = None
    if fields.pseudo_labels or (fields.kind == "lowest_loss" and not by_history):
        measured = start.measure("train", judge(start.state))
    if fields.kind == "balanced":
        rng = generator(config.seed, Purpose.BALANCED_META_SET, start.number)
        rows = meta_set.balanced(labels, parts.num_classes, fields.per_class_examples, rng)
    else:
        losses = history.mean if by_history else measured.losses
        rows = meta_set.lowest_loss(losses, labels, parts.num_classes, fields.per_class_examples)
    shown = measured.predictions if fields.pseudo_labels else labels
    return Plan({META: meta_set.with_labels(rows, shown)})


def _knows_enough(parts: Parts, visits: np.ndarray) -> bool:
    """Whether so many examples have been visited that no others need to be selected, unless a class is small.

    Args:
        parts: the pieces of the run.
        visits: [N] int, how often each training example has been visited.
    """
    labels, most = parts.data.biased.given, parts.config.meta_set.per_class_examples
    sizes, visited = (np.bincount(some, minlength=parts.num_classes) for some in (labels, labels[visits > 0]))
    return bool(np.all((visited >= most) | (sizes <= most)))


def _numbers(parts: Parts, selections: Mapping[str, Selection]) -> dict[str, float]:
    """The meta set's size and the percentage of its labels that are right."""
    if META not in selections:
        return {}
    chosen, labels = selections[META], parts.data.biased
    held_out = parts.config.meta_set.kind == "held_out" and labels.truth_known
    percent = 100.0 if held_out else meta_set.rightness(labels, chosen).percent
    return {"meta_set_size": len(chosen.rows), "meta_set_right_percent": percent}
