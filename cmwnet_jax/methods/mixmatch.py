"""The objectives of DivideMix: MixMatch, and a warm-up, for two networks at once (Li et al. 2020, Sec. 3.2).

Params, model_state and batches have a leading axis of 2, one entry per network.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmwnet_jax.core import objectives
from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.mixing import draw_mixture
from cmwnet_jax.core.types import Objective, ObjectiveFn
from cmwnet_jax.methods.base import Parts
from cmwnet_jax.methods.m_correction import class_balance
from cmwnet_jax.methods.measure import Measure, Predict, measured

NETWORKS = 2
VIEWS = ("image", "other")


def mixmatch_objective(parts: Parts) -> ObjectiveFn:
    """Makes the objective of both networks, `sum_k L_x + strength * L_u + L_reg` of each (their Eq. 12).

    Args:
        parts: the pieces of the run.

    Returns:
        An `objective` for batches with `labelled` and `unlabelled`, each with the views `image` and `other`
        [2, n, ...] and `label` [2, n] int; `right` [2, n], the probabilities that labels of `labelled` are
        right; and a scalar `strength`, lambda_u. The terms are those of L_x.
    """
    fields = parts.config.dividemix
    alpha, temperature = fields.mixup_alpha, fields.temperature
    forward = objectives.train_mode(parts.model.apply)

    def predicted(variables, half):
        """One network's mean probabilities on the two views."""
        views = (parts.model.apply(variables, half[view], train=False) for view in VIEWS)
        return sum(jax.nn.softmax(logits) for logits in views) / 2

    def targets(variables, labelled, unlabelled, right):
        """Co-refinement and co-guessing, [2, n, C] each."""
        own = jax.vmap(predicted)(variables, labelled)
        given = jax.nn.one_hot(labelled["label"], own.shape[-1], dtype=own.dtype)
        right = right[..., None].astype(own.dtype)
        by_both = jax.vmap(jax.vmap(predicted, in_axes=(0, None)), in_axes=(None, 0))(variables, unlabelled)
        refined = right * given + (1 - right) * own
        return jax.lax.stop_gradient(tuple(sharpened(p, temperature) for p in (refined, by_both.mean(axis=1))))

    def losses_of_one(params, model_state, rng, labelled, unlabelled, refined, guessed):
        mix_rng, rng = jax.random.split(rng)
        image = jnp.concatenate([half[view] for half in (labelled, unlabelled) for view in VIEWS])
        target = jnp.concatenate([refined, refined, guessed, guessed])
        if alpha:
            mixture = draw_mixture(mix_rng, len(image), alpha=alpha, keep_larger=True)
            image, target = mixture.blend(image), mixture.blend(target)
        logits, model_state = forward(params, model_state, image, rng)
        count = 2 * len(refined)
        terms = cross_entropy(logits[:count], target[:count])
        gap = jnp.mean((jax.nn.softmax(logits[count:]) - target[count:]) ** 2)
        return terms, gap, class_balance(logits, parts.axis_name), model_state

    def objective(params, model_state, batch, rng):
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        refined, guessed = targets({"params": params, **model_state}, labelled, unlabelled, batch["right"])
        keys = jax.random.split(rng, NETWORKS)
        terms, gap, balance, model_state = jax.vmap(losses_of_one)(
            params, model_state, keys, labelled, unlabelled, refined, guessed
        )
        base = jnp.sum(batch["strength"].astype(gap.dtype) * gap + balance)
        return _of_both(terms, base), model_state

    return objective


def warmup_objective(parts: Parts, penalty: float) -> ObjectiveFn:
    """Makes cross-entropy minus `penalty` times the entropy, for both networks on batches of their own.

    Args:
        parts: the pieces of the run.
        penalty: coefficient of the entropy; 0 for plain cross-entropy.
    """
    forward = objectives.train_mode(parts.model.apply)

    def objective(params, model_state, batch, rng):
        logits, model_state = jax.vmap(forward)(
            params, model_state, batch["image"], jax.random.split(rng, NETWORKS)
        )
        log_p = jax.nn.log_softmax(logits)
        base = penalty * NETWORKS * jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
        return _of_both(jax.vmap(cross_entropy)(logits, batch["label"]), base), model_state

    return objective


def sharpened(probabilities: jax.Array, temperature: float) -> jax.Array:
    """Raises probabilities to the power of 1 / temperature and normalises them.

    Args:
        probabilities: [..., C] float.
        temperature: in (0, 1]; 1 changes nothing.
    """
    # Relative to the largest: powers of the probabilities themselves may all round to 0.
    powers = (probabilities / jnp.max(probabilities, axis=-1, keepdims=True)) ** (1 / temperature)
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def _of_both(terms: jax.Array, base: jax.Array) -> Objective:
    """The sum of both networks' mean terms [2, n], plus base: the step takes the mean of all terms."""
    terms = terms.reshape(-1)
    return Objective(NETWORKS * terms, terms, jnp.zeros(len(terms), jnp.int32), base)


class MeasuredPair(NamedTuple):
    """As `Measured`, of the mean of both networks' probabilities; `network_losses` is [n, 2]."""

    losses: jax.Array | np.ndarray
    predictions: jax.Array | np.ndarray
    confidence: jax.Array | np.ndarray
    ranks: jax.Array | np.ndarray
    certainty: jax.Array | np.ndarray
    network_losses: jax.Array | np.ndarray


def measure_both(parts: Parts) -> Measure:
    """Makes the measure of the two networks together, which is also what is tested."""

    def measure(variables, batch):
        logits, together = _logits_of_both(parts.model, variables, batch)
        losses = jax.vmap(cross_entropy, in_axes=(0, None), out_axes=1)(logits, batch["label"])
        return MeasuredPair(*measured(together, batch["label"]), losses)

    return measure


def predict_both(parts: Parts) -> Predict:
    """Makes the function that computes the mean of both networks' class probabilities; it can be pickled."""
    return functools.partial(_mean_probabilities, parts.model)


def _mean_probabilities(model: nn.Module, variables, batch) -> jax.Array:
    return jnp.exp(_logits_of_both(model, variables, batch)[1]).astype(jnp.float32)


def _logits_of_both(model: nn.Module, variables, batch) -> tuple[jax.Array, jax.Array]:
    """The networks' logits [2, n, C], and the logarithm of their mean probabilities [n, C]."""
    logits = jax.vmap(lambda own: model.apply(own, batch["image"], train=False))(variables)
    return logits, jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(NETWORKS)
