"""SelectiveNet: a classifier that learns when to abstain, for one coverage (Geifman, El-Yaniv 2019; E.3.1)."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from cmwnet_jax.core.selective import selective_objective
from cmwnet_jax.core.types import ObjectiveFn
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import Method, Parts, Phase, Spec
from cmwnet_jax.methods.fields import LARGE, Field, between, within
from cmwnet_jax.methods.measure import Measured, measured, predict_classes
from cmwnet_jax.methods.plain import weighted_step
from cmwnet_jax.models.selective_heads import selective_heads

FIELDS = {
    "selectivenet.coverage_percent": Field(
        80.0,
        "selectivenet and selectivenet_cmwnet: the coverage that the network is trained for, the per cent of "
        "the examples that it accepts (c).",
        within("(0, 100]"),
    ),
    "selectivenet.alpha": Field(
        0.5,
        "selectivenet and selectivenet_cmwnet: share of the selective loss, in (0, 1); the rest is the "
        "auxiliary head's.",
        within("(0, 1)"),
    ),
    "selectivenet.penalty": Field(
        32.0,
        "selectivenet and selectivenet_cmwnet: factor of the squared lack of coverage (lambda).",
        between(0, LARGE),
    ),
}
"""Config fields of the selective loss; the defaults are SelectiveNet's."""


def loss_settings(parts: Parts) -> dict[str, Any]:
    """Arguments of `selective_loss` from the config.

    Args:
        parts: the pieces of the run.
    """
    fields = parts.config.selectivenet
    return {
        "coverage": fields.coverage_percent / 100,
        "strength": fields.penalty,
        "axis_name": parts.axis_name,
    }


def objective_of(parts: Parts) -> ObjectiveFn:
    """Makes the objective with the config's settings.

    Args:
        parts: the pieces of the run.
    """
    alpha = parts.config.selectivenet.alpha
    return selective_objective(parts.model.apply, parts.meta_classes, alpha=alpha, **loss_settings(parts))


def unweighted(parts: Parts) -> Phase:
    """SelectiveNet's own training, the warm-up of its weighted form.

    Args:
        parts: the pieces of the run.
    """
    return Phase(steps.weighted(weighted_step(parts, objective_of(parts))))


def evaluation(parts: Parts) -> dict[str, Any]:
    """Fields of `Method`: f predicts, g says how certainly, and errors are reported at its own coverage.

    Args:
        parts: the pieces of the run.
    """

    def measure(variables, batch) -> Measured:
        heads = parts.model.apply(variables, batch["image"], train=False)
        return measured(heads.logits, batch["label"])._replace(certainty=heads.selection)

    return {
        "measure": measure,
        "predict": predict_classes(parts.model, operator.attrgetter("logits")),
        "coverages_percent": (parts.config.selectivenet.coverage_percent,),
        "test_numbers": lambda tested: {
            "test_mean_selection": float(jnp.mean(jax.nn.sigmoid(tested.certainty)))
        },
    }


def build(parts: Parts) -> Method:
    """Builds training with all weights one, which its warm-up is, too."""
    phases = (unweighted(parts),)
    return parts.method(phases, warmup_epochs=parts.config.warmup_epochs, **evaluation(parts))


SPEC = Spec(
    "selectivenet",
    build,
    head=lambda config: selective_heads,
    follows_warmup=lambda config: False,
    fields=FIELDS,
    options=tuple(FIELDS),
)
