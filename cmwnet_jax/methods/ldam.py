"""LDAM: label-distribution-aware margins, with optional deferred re-weighting (Cao et al. 2019)."""

from functools import partial

from ml_collections import ConfigDict

from cmwnet_jax.core import losses
from cmwnet_jax.core.class_balance import ldam_margins
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import class_balanced, steps
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.class_balanced import class_weighted_step
from cmwnet_jax.methods.fields import Field, more_than_nothing, percent_of_steps, within
from cmwnet_jax.methods.plain import after_warmup, weighted_step
from cmwnet_jax.models.heads import cosine_head

FIELDS = {
    "loss.ldam_margin": Field(
        0.5,
        "ldam and loss.name=ldam: margin of the smallest class, in units of the cosine.",
        within("(0, inf)"),
    ),
    "loss.ldam_scale": Field(
        30.0,
        "ldam and loss.name=ldam: factor that turns the classifier's cosines into logits.",
        within("(0, inf)"),
    ),
    "loss.reweight_at_percent": Field(
        100.0,
        "ldam only: class-balanced weights apply from this per cent of the steps on (DRW: 80); 100: never.",
        percent_of_steps,
    ),
}
"""Config fields of the loss and of this method."""


def ldam_loss(parts: Parts) -> losses.LossFn:
    """Makes the LDAM loss with the config's margin and scale."""
    fields, counts = parts.config.loss, parts.data.biased.class_counts
    margins = ldam_margins(counts, largest=fields.ldam_margin, scale=fields.ldam_scale, counted=True)
    return partial(losses.ldam, margins=margins)


def build(parts: Parts) -> Method:
    """Builds training with margins and deferred re-weighting (DRW; Q9)."""
    loss = ldam_loss(parts)
    before = steps.weighted(weighted_step(parts, parts.objective(loss)))
    percent = parts.config.loss.reweight_at_percent
    first = parts.at_step(percent)
    if percent == 100:
        return after_warmup(parts, before)
    if first >= parts.num_steps:
        raise UsageError(
            f"loss.reweight_at_percent is {percent}, which is after the last of {parts.num_steps} steps: lower "
            f"it, or set it to 100 for no weights at all"
        )
    after = class_weighted_step(parts, loss)
    return after_warmup(parts, steps.Switched(lambda number: number >= first, after, before))


def check(config: ConfigDict) -> None:
    """Raises a UsageError if all class weights would be one."""
    if config.loss.reweight_at_percent < 100:
        more_than_nothing(config, "loss.class_balanced_beta")


SPEC = Spec(
    "ldam",
    build,
    check,
    head=lambda config: cosine_head(config.loss.ldam_scale),
    fields={**FIELDS, **class_balanced.FIELDS},
    options=("loss.reweight_at_percent",),
)
