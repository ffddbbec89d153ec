"""Forward loss correction with a label-transition matrix (Patrini et al. 2017)."""

from functools import partial

import numpy as np

from cmwnet_jax.core import losses
from cmwnet_jax.core.transition import estimate_transition
from cmwnet_jax.data.bias.labels import probabilities_by_id
from cmwnet_jax.data.probabilities import check_class_order, load_probabilities
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods.base import Method, Parts, Spec
from cmwnet_jax.methods.fields import Field, local_file
from cmwnet_jax.methods.plain import plain_training

FIELDS = {
    "loss.forward_posterior": Field(
        "",
        "forward only: an .npy file of class probabilities from which the transition matrix is estimated; "
        "empty: the true matrix.",
        local_file,
    ),
}
"""Config fields of this method."""


def transition_matrix(parts: Parts) -> np.ndarray:
    """The transition matrix P(given | true), estimated from the config's posterior or else counted exactly.

    Args:
        parts: the pieces of the run.

    Returns:
        [C, C], one row per true class.

    Raises:
        UsageError: the true labels are not known, some images belong to no class, or the posterior cannot be
            used.
    """
    path, biased = parts.config.loss.forward_posterior, parts.data.biased
    if path:
        return estimate_transition(_posterior(parts, path))
    if not biased.truth_known:
        raise UsageError(
            f"loss.forward_posterior is empty, but {parts.data.source.name}'s true labels are not known: "
            f"name an .npy that python -m cmwnet_jax.data posterior wrote of a plain run"
        )
    if biased.foreign is not None:
        raise UsageError(
            f"method is 'forward' and data.bias is {parts.data.record.name!r}, whose images of no class "
            f"have no transition matrix: take another method, or name a posterior in loss.forward_posterior"
        )
    return biased.transition_matrix


def _posterior(parts: Parts, path: str) -> np.ndarray:
    """Loads the class probabilities [N, C] of the run's examples."""
    field, data = "loss.forward_posterior", parts.data
    hint = "write one with python -m cmwnet_jax.data posterior --of_given_labels"
    shape, names = (len(data.true_labels), parts.num_classes), data.source.class_names
    posterior = load_probabilities(field, path, shape, hint, true_labels=data.true_labels, class_names=names)
    posterior = probabilities_by_id(field, posterior, data.biased)
    check_class_order(field, path, posterior, data.biased.given)
    return posterior


def build(parts: Parts) -> Method:
    """Builds plain training on the corrected loss."""
    return plain_training(parts, partial(losses.forward_corrected, transition=transition_matrix(parts)))


SPEC = Spec("forward", build, fields=FIELDS)
