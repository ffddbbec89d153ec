"""Progressive label correction, PLC (Zhang et al. 2021, Algorithm 1; PLC of Tables 3 and 4).

Where their text leaves settings open, we take those of their code. That code compares probabilities averaged
over the training passes of five epochs; we take the text's, those of the current classifier.
"""

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import label_plans, steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import Field, between, within
from cmwnet_jax.methods.plain import warmup, weighted_step

FIELDS = {
    "plc.first_ratio": Field(
        0.3,
        "plc only: first threshold, in (0, 1): a label becomes the predicted class if its probability is less "
        "than this times that of the predicted class.",
        within("(0, 1)"),
    ),
    "plc.ratio_increase": Field(
        0.1,
        "plc only: what is added to the threshold after an epoch with few changes.",
        between(0, 1),
    ),
    "plc.last_ratio": Field(
        0.9,
        "plc only: the largest threshold, in (0, 1).",
        within("(0, 1)"),
    ),
    "plc.few_percent": Field(
        0.1,
        "plc only: the threshold moves if it has changed fewer than this per cent of the labels.",
        between(0, 100),
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds plain training on labels that are corrected with a threshold that becomes looser by steps."""
    fields = parts.config.plc
    few, increase, last = fields.few_percent, fields.ratio_increase, fields.last_ratio

    def next_ratio(ratio: float, share_changed: float) -> float:
        return min(ratio + increase, last) if 100 * share_changed < few else ratio

    return label_plans.correcting(
        parts,
        warmup(parts),
        steps.weighted(weighted_step(parts, label_plans.corrected_objective(parts))),
        first_ratio=fields.first_ratio,
        next_ratio=next_ratio,
    )


def check(config: ConfigDict) -> None:
    """Raises a UsageError without a warm-up, or if the last threshold is stricter than the first."""
    label_plans.check_warmup(config)
    if config.plc.last_ratio < config.plc.first_ratio:
        raise UsageError(
            f"plc.last_ratio is {config.plc.last_ratio}, expected at least plc.first_ratio, "
            f"{config.plc.first_ratio}: raise it"
        )


SPEC = Spec("plc", build, check, fields=FIELDS)
