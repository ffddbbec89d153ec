"""Label correction by likelihood ratio, AdaCorr (Zheng et al. 2020; LRT of Tables 3 and 4).

The second loss, which they call retroactive, is the cross-entropy with the classifier's own predictions from
the end of the warm-up. It keeps the classifier from following labels that were corrected wrongly. The settings
are those of their code. That code differs in three places: it compares probabilities averaged over the training
passes of ten epochs, it corrects no label in the first ten epochs with the second loss, and it takes the labels
of that time in the second loss, not the predictions.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmwnet_jax.core import losses, objectives
from cmwnet_jax.core.table import remembering
from cmwnet_jax.core.types import Objective, ObjectiveFn
from cmwnet_jax.methods import label_plans, steps
from cmwnet_jax.methods.base import Method, Parts, Phase, Spec
from cmwnet_jax.methods.elr import empty_table
from cmwnet_jax.methods.fields import LARGE, Field, between, more_than_nothing, within
from cmwnet_jax.methods.plain import weighted_step

FIELDS = {
    "lrt.first_ratio": Field(
        0.82,
        "lrt only: first threshold, in (0, 1): a label becomes the predicted class if its probability is less "
        "than this times that of the predicted class.",
        within("(0, 1)"),
    ),
    "lrt.growth": Field(
        0.02,
        "lrt only: what is added to the threshold's inverse after each epoch, so that changes need ever more "
        "certainty.",
        between(0, LARGE),
    ),
    "lrt.retroactive": Field(
        1.0,
        "lrt only: coefficient of the cross-entropy with the predictions from the end of the warm-up.",
        between(0, LARGE),
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds the warm-up, which records predictions, then training on corrected labels with the second loss."""
    fields = parts.config.lrt
    growth = fields.growth
    warm, main = (
        steps.weighted(remembering(weighted_step(parts, objective), parts.axis_name))
        for objective in (recording_objective(parts), retroactive_objective(parts, fields.retroactive))
    )
    return label_plans.correcting(
        parts,
        Phase(warm),
        main,
        first_ratio=fields.first_ratio,
        next_ratio=lambda ratio, share_changed: 1 / (1 / ratio + growth),
        memory=empty_table(parts, jnp.float32),
    )


def recording_objective(parts: Parts) -> ObjectiveFn:
    """Makes cross-entropy whose `aux` is the predictions [n, C], which replace the `memory` of the examples."""
    forward = objectives.train_mode(parts.model.apply)

    def objective(params, model_state, batch, rng):
        logits, model_state = forward(params, model_state, batch["image"], rng)
        terms = losses.cross_entropy(logits, batch["label"])
        recorded = jax.lax.stop_gradient(jax.nn.softmax(logits))
        return Objective(terms, terms, jnp.zeros_like(batch["label"]), aux=recorded), model_state

    return objective


def retroactive_objective(parts: Parts, strength: float) -> ObjectiveFn:
    """Makes cross-entropy plus `strength` times that with `memory` [n, C], which stays as it is.

    An example whose memory is zeros, as it was never visited in the warm-up, has no second loss.

    Args:
        parts: the pieces of the run.
        strength: the coefficient.
    """
    forward = objectives.train_mode(parts.model.apply)

    def objective(params, model_state, batch, rng):
        logits, model_state = forward(params, model_state, batch["image"], rng)
        first = losses.cross_entropy(logits, batch["label"])
        terms = first + strength * losses.cross_entropy(logits, batch["memory"].astype(logits.dtype))
        own, meta_class = label_plans.given_losses(logits, batch), jnp.zeros_like(batch["label"])
        return Objective(terms, own, meta_class, aux=batch["memory"]), model_state

    return objective


def check(config: ConfigDict) -> None:
    """Raises a UsageError without a warm-up or a second loss."""
    label_plans.check_warmup(config)
    more_than_nothing(config, "lrt.retroactive")


SPEC = Spec("lrt", build, check, fields=FIELDS)
