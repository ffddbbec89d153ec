"""M-correction: dynamic hard bootstrapping with mixup (Arazo et al. 2019; M-correction of Tables 2 and 11).

Before each epoch, a beta mixture of the training losses tells how likely a label with a certain loss is wrong.
The loss is cross-entropy with the given label, weighted by the probability that it is right, plus that with the
predicted class, weighted by the rest (their "M-DYR-H"). It is affine in the weights, like CMW-Net-SL's. Unlike
in the authors' code, predictions and losses come from one pass in evaluation mode, and the warm-up, which there
has mixup and the class-balance regulariser, is that of all methods.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core import objectives, soft_labels
from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.mixing import draw_mixture
from cmwnet_jax.core.types import Objective, ObjectiveFn, PyTree
from cmwnet_jax.methods import beta_mixture, steps
from cmwnet_jax.methods.base import (
    EpochStart,
    Method,
    Parts,
    Phase,
    Plan,
    Spec,
    one_classifier,
    the_classifier,
)
from cmwnet_jax.methods.fields import LARGE, MANY, Field, between
from cmwnet_jax.methods.label_plans import check_warmup, new_weight_params
from cmwnet_jax.methods.plain import warmup, weighted_step

FIELDS = {
    "m_correction.mixup_alpha": Field(
        32.0,
        "m_correction only: alpha of Beta(alpha, alpha) for mixup; 0: none.",
        between(0, MANY),
    ),
    "m_correction.prior": Field(
        1.0,
        "m_correction only: coefficient of the divergence of a batch's mean prediction from equal classes.",
        between(0, LARGE),
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds the warm-up, then bootstrapping with weights from the epoch's beta mixture."""
    fields = parts.config.m_correction
    objective = bootstrap_objective(parts, mixup_alpha=fields.mixup_alpha, prior=fields.prior)
    step = weighted_step(parts, objective, weight_fn=probability_right, normalize="mean")
    main = Phase(
        steps.weighted(soft_labels.reporting_own_labels(step)),
        first_epoch=parts.config.warmup_epochs,
        weighs=True,
    )
    first = fitted(np.linspace(0, 1, 11))
    return parts.method(
        (warmup(parts), main),
        initial=lambda *args: {**one_classifier(*args), "weight_params": jax.tree.map(jnp.asarray, first)},
        may_weigh_nothing=True,
        plan_epoch=lambda start: _plan(parts, start),
    )


def fitted(losses: np.ndarray) -> dict[str, np.ndarray]:
    """Fits the beta mixture and tabulates it as the first argument of `probability_right`.

    Args:
        losses: [N] float, the losses of all training examples.

    Returns:
        `wrong` [100] float32, the probability that a label is wrong by scaled loss; `low` and `high`, float32,
        the losses that are scaled to 0 and 1.
    """
    low, high = beta_mixture.loss_range(losses)
    inside = losses[(losses >= low) & (losses <= high)]
    mixture = beta_mixture.fit(beta_mixture.scaled(inside, low, high))
    wrong = beta_mixture.wrong_by_value(mixture).astype(np.float32)
    return {"wrong": wrong, "low": np.float32(low), "high": np.float32(high)}


def probability_right(mixture: PyTree, losses: jax.Array, meta_class: jax.Array) -> jax.Array:
    """Computes the probability that a label is right, from its loss; a `weight_fn`.

    Args:
        mixture: from `fitted`.
        losses: [n] float.
        meta_class: [n] int, unused.
    """
    del meta_class
    span = jnp.maximum(mixture["high"] - mixture["low"], 1e-6)
    scaled = jnp.clip((losses - mixture["low"]) / span, beta_mixture.EDGE, 1 - beta_mixture.EDGE)
    wrong = jnp.interp(scaled, jnp.asarray(beta_mixture.GRID, losses.dtype), mixture["wrong"])
    return (1 - wrong).astype(losses.dtype)


def bootstrap_objective(parts: Parts, *, mixup_alpha: float, prior: float) -> ObjectiveFn:
    """Makes the objective: each weight shares an example between its given and its predicted label.

    With mixup there are 2n terms, as in `soft_labels.soft_label_objective`; on several devices, each mixes its
    own part of the batch. An example's weight is that of its loss before mixing.

    Args:
        parts: the pieces of the run.
        mixup_alpha: alpha of Beta(alpha, alpha); 0 for no mixup.
        prior: coefficient of `class_balance`.
    """
    forward = objectives.train_mode(parts.model.apply)

    def objective(params, model_state, batch, rng):
        mix_rng, rng = jax.random.split(rng)
        image, label = batch["image"], batch["label"]
        plain = parts.model.apply({"params": params, **model_state}, image, train=False)
        plain = jax.lax.stop_gradient(plain)
        predicted = jnp.argmax(plain, axis=-1).astype(label.dtype)
        mixture = draw_mixture(mix_rng, len(image), alpha=mixup_alpha) if mixup_alpha else None
        logits, model_state = forward(params, model_state, mixture.blend(image) if mixture else image, rng)
        given, soft = cross_entropy(logits, label), cross_entropy(logits, predicted)
        seen = cross_entropy(plain, label)
        out = Objective(given - soft, seen, jnp.zeros_like(label), jnp.mean(soft))
        if mixture:
            partners = (cross_entropy(logits, of[mixture.partner]) for of in (label, predicted))
            out = soft_labels.with_partners(out, soft, tuple(partners), mixture, "partner")
        return out._replace(base=out.base + prior * class_balance(logits, parts.axis_name)), model_state

    objective.terms_per_example = 2 if mixup_alpha else 1
    return objective


def class_balance(logits: jax.Array, axis_name: str | None) -> jax.Array:
    """Divergence of the batch's mean prediction from equal classes, `sum_c 1/C log((1/C) / mean p_c)`.

    Args:
        logits: [n, C] float.
        axis_name: the device axis; the mean is over all devices' examples.

    Returns:
        A scalar, at least 0.
    """
    mean = objectives.mean_over_axis(jax.nn.softmax(logits), axis_name)
    least = jnp.finfo(mean.dtype).tiny  # a class that nothing is predicted to be
    return -jnp.mean(jnp.log(jnp.maximum(mean, least) * logits.shape[-1]))


def _plan(parts: Parts, start: EpochStart) -> Plan:
    """Fits the mixture anew."""
    if start.number < parts.config.warmup_epochs:
        return Plan()
    measured = start.measure("train", the_classifier(start.state)[""])
    new = fitted(np.asarray(measured.losses, np.float64))
    return Plan(state=new_weight_params(start, new))


def check(config: ConfigDict) -> None:
    """Raises a UsageError without a warm-up."""
    check_warmup(config)


SPEC = Spec("m_correction", build, check, fields=FIELDS)
