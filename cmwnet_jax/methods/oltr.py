"""OLTR: a memory of class centroids for rare classes, in a second stage (Liu et al. 2019; Table 8).

Stage one, the warm-up, trains features and a linear classifier by plain cross-entropy; or it is another run,
plain or with a frozen weight net, that `model.init` names. Stage two begins with a memory of the classes' mean
features. The linear classifier's softmax reads it, and a cosine classifier of the features and of what was read
is trained, on batches with as many examples of each class.

The settings are those of the authors' code. Unlike there, features are not modulated by spatial attention, and
a balanced batch holds as many classes as it can instead of four examples of each. Their learning rate of the
features is a tenth of the others': `optimizer.slow`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.oltr import MemoryOutputs, direct_objective, oltr_objective
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import EpochStart, Method, Parts, Phase, Plan, Spec, the_classifier
from cmwnet_jax.methods.fields import LARGE, Field, between
from cmwnet_jax.methods.measure import measured, predict_classes
from cmwnet_jax.methods.plain import weighted_step
from cmwnet_jax.models import at_random
from cmwnet_jax.models.heads import linear_head
from cmwnet_jax.models.memory_head import MEMORY, memory_head

FIELDS = {
    "oltr.centroid_loss": Field(
        0.01,
        "oltr only: factor of the loss that attracts features to their class's centroid.",
        between(0, LARGE),
    ),
    "oltr.repel": Field(
        0.01,
        "oltr only: factor, within that loss, of the part that repels features from other centroids.",
        between(0, LARGE),
    ),
    "oltr.margin": Field(
        10.0,
        "oltr only: mean squared distance from other centroids up to which features are repelled.",
        between(0, LARGE),
    ),
    "oltr.balanced": Field(
        True,
        "oltr only: whether stage two draws every class equally often.",
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds stage one, plain training of the linear classifier, and stage two."""
    fields, first = parts.config.oltr, parts.config.warmup_epochs
    objective = oltr_objective(
        parts.model.apply,
        parts.meta_classes,
        strength=fields.centroid_loss,
        margin=fields.margin,
        repel=fields.repel,
        axis_name=parts.axis_name,
    )
    direct = direct_objective(parts.model.apply, parts.meta_classes)
    stage_one, stage_two = (steps.weighted(weighted_step(parts, stage)) for stage in (direct, objective))

    def measure(variables, batch):
        outputs = parts.model.apply(variables, batch["image"], train=False)
        return measured(chosen_logits(outputs), batch["label"])

    stream = dataclasses.replace(parts.train_stream, balanced_from=first if fields.balanced else None)
    return parts.method(
        (Phase(stage_one), Phase(stage_two, first_epoch=first)),
        streams={"train": stream},
        measure=measure,
        predict=predict_classes(parts.model, chosen_logits),
        plan_epoch=lambda start: _plan(parts, start),
    )


def chosen_logits(outputs: MemoryOutputs) -> jax.Array:
    """The logits that predict: in stage one, whose memory is empty, those of the linear classifier.

    Args:
        outputs: of the classifier.

    Returns:
        [n, C] float.
    """
    return jnp.where(jnp.any(outputs.centroids != 0), outputs.logits, outputs.direct)


def class_means(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The mean feature of each class; 0 for a class without examples.

    Args:
        features: [N, F] float.
        labels: [N] int in [0, C).
        num_classes: C.

    Returns:
        [C, F] float64.
    """
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, features.astype(np.float64))
    return sums / np.maximum(np.bincount(labels, minlength=num_classes), 1)[:, None]


def _plan(parts: Parts, start: EpochStart) -> Plan:
    """At the start of stage two, fills the memory; this holds all features, [N, F] float32, on the host.

    What reads the memory begins anew: stage one gives it no gradient, but the optimiser's weight decay has
    shrunk it, and the gradient of a cosine grows without bound as its vectors become shorter.
    """
    if start.number != parts.config.warmup_epochs:
        return Plan()

    def features_of(variables, batch):
        return parts.model.apply(variables, batch["image"], train=False).features

    features = start.map("train", features_of, the_classifier(start.state)[""])
    memory = jax.device_get(at_random(parts.model, parts.data.blank(), parts.config.seed)["params"][MEMORY])
    means = class_means(features, parts.data.biased.given, parts.num_classes)
    memory["centroids"] = means.astype(memory["centroids"].dtype)
    return Plan(state={"params": {**start.state.params, MEMORY: start.replicate(memory)}})


def check(config: ConfigDict) -> None:
    """Raises a UsageError without a stage one."""
    if not config.warmup_epochs and not config.model.init:
        raise UsageError(
            "warmup_epochs is 0 and model.init is empty, but oltr's memory is made of a trained classifier's "
            "features: set warmup_epochs to the epochs of stage one, or model.init to a finished plain run"
        )


SPEC = Spec(
    "oltr",
    build,
    check,
    head=lambda config: memory_head,
    starts_from=lambda config: linear_head,
    fields=FIELDS,
    options=tuple(FIELDS),
)
