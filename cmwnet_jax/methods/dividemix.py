"""DivideMix: two networks that divide the training set for each other (Li et al. 2020; Tables 2 and 11).

Before each epoch, a Gaussian mixture of each network's losses tells which labels are likely right. The other
network trains on these as labelled examples, and on the rest as unlabelled ones, with MixMatch. The two are one
state, whose parameters have a leading axis of 2, and are trained by one program. They are tested together.

The settings are those of the paper. Unlike in the authors' code, both networks train at the same time, and all
targets are predicted in evaluation mode. An epoch has as many steps as with other methods, each with a batch of
labelled and one of unlabelled examples per network, so that the smaller part is visited more often. Without
augmentation, the two views of an example are equal. The planned streams take four times the memory of the
training set on each device, also on the streaming path; eight times there with random crops, of which each view
has its own.
"""

import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from cmwnet_jax.data.augment import Augmentation
from cmwnet_jax.data.batches import Selection
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import steps
from cmwnet_jax.methods.base import EpochStart, Method, Parts, Phase, Plan, Spec, Stream, the_classifier
from cmwnet_jax.methods.corrections import correction_arrays
from cmwnet_jax.methods.fields import LARGE, MANY, Field, between, within
from cmwnet_jax.methods.label_plans import check_warmup, new_weight_params
from cmwnet_jax.methods.mixmatch import (
    NETWORKS,
    VIEWS,
    measure_both,
    mixmatch_objective,
    predict_both,
    warmup_objective,
)
from cmwnet_jax.methods.plain import weighted_step

FIELDS = {
    "dividemix.unlabelled": Field(
        25.0,
        "dividemix only: coefficient of the loss on unlabelled examples (lambda_u). Published for CIFAR-10: "
        "symmetric noise of 20% 0, of 50% and 80% 25, of 90% 50, asymmetric of 40% 0; for CIFAR-100: symmetric "
        "noise of 20% 25, of 50% and more 150.",
        between(0, LARGE),
    ),
    "dividemix.ramp_up_epochs": Field(
        16,
        "dividemix only: epochs after the warm-up in which lambda_u rises from 0, linearly by step; 0: none.",
        between(0, MANY),
    ),
    "dividemix.threshold": Field(
        0.5,
        "dividemix only: a label is used if its probability of being right is more than this, in (0, 1).",
        within("(0, 1)"),
    ),
    "dividemix.temperature": Field(
        0.5,
        "dividemix only: temperature that sharpens targets, in (0, 1].",
        within("(0, 1]"),
    ),
    "dividemix.mixup_alpha": Field(
        4.0,
        "dividemix only: alpha of Beta(alpha, alpha) for mixup; 0: none.",
        between(0, MANY),
    ),
    "dividemix.confidence_penalty": Field(
        False,
        "dividemix only: whether the warm-up's loss includes the negative entropy of predictions; published "
        "for asymmetric noise.",
    ),
}
"""Config fields of this method."""


def build(parts: Parts) -> Method:
    """Builds the warm-up of both networks on batches of their own, then MixMatch on the divided set."""
    fields = parts.config.dividemix
    threshold, penalty = fields.threshold, 1.0 if fields.confidence_penalty else 0.0
    before = Phase(_warmup_step(parts, penalty), streams=("train", "second"))
    halves = _planned_streams(parts)
    main = Phase(
        _main_step(parts),
        streams=("train", *halves),
        first_epoch=parts.config.warmup_epochs,
        weighs=True,
    )
    first = _unknown(parts)
    return parts.method(
        (before, main),
        streams={"train": parts.train_stream, "second": parts.train_stream, **halves},
        initial=lambda *args: {**_two_classifiers(*args), "weight_params": jax.tree.map(jnp.asarray, first)},
        measure=measure_both(parts),
        predict=predict_both(parts),
        may_weigh_nothing=True,
        plan_epoch=lambda start: _plan(parts, start, threshold),
        describe_plan=lambda selections: _numbers(parts, selections),
        leave=lambda state: {"corrected.npz": _corrected(parts, state.weight_params)},
    )


def probability_right(losses: np.ndarray, seed: int) -> np.ndarray:
    """Fits a Gaussian mixture of two to the losses, scaled to [0, 1]; the one of lower losses has right labels.

    Args:
        losses: [N] float, N at least 2.
        seed: seed of the mixture's k-means start, below 2^32.

    Returns:
        [N] float64 in [0, 1].
    """
    span = max(np.ptp(losses), np.finfo(np.float32).tiny)
    values = ((losses - losses.min()) / span)[:, None].astype(np.float64)
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are the published number
        return mixture.fit(values).predict_proba(values)[:, mixture.means_[:, 0].argmin()]


def _warmup_step(parts: Parts, penalty: float) -> steps.BatchStep:
    step = steps.weighted(weighted_step(parts, warmup_objective(parts, penalty)), stream="both")

    def run(state, batch):
        state, metrics = step(state, {"both": _stacked(batch["train"], batch["second"])})
        own = len(batch["train"]["label"])
        return state, {**metrics, **{name: metrics[name][:own] for name in ("losses", "weights")}}

    return run


def _main_step(parts: Parts) -> steps.BatchStep:
    """Gives the objective its parts, and reports each example's loss and weight at the epoch's start."""
    step = steps.weighted(weighted_step(parts, mixmatch_objective(parts)), stream="both")
    fields, config = parts.config.dividemix, parts.config
    most, epoch_steps = fields.unlabelled, parts.num_steps // config.num_epochs
    ramp_steps, first = fields.ramp_up_epochs * epoch_steps, config.warmup_epochs * epoch_steps

    def run(state, batch):
        plan, rows = state.weight_params, batch["train"]["row"]
        labelled, unlabelled = (_stacked(*(batch[f"{half}_{k}"] for k in (1, 2))) for half in _HALVES)
        by_other = jax.vmap(lambda right, chosen: right[chosen])(plan["right"][::-1], labelled["row"])
        done = jnp.clip((state.step - first) / ramp_steps, 0, 1) if ramp_steps else jnp.ones(())
        both = {"labelled": labelled, "unlabelled": unlabelled, "right": by_other, "strength": most * done}
        state, metrics = step(state, {"both": both})
        losses, weights = (jnp.mean(plan[name][:, rows], axis=0) for name in ("losses", "right"))
        return state, {**metrics, "losses": losses, "weights": weights}

    return run


_HALVES = ("labelled", "unlabelled")


def _planned_streams(parts: Parts) -> dict[str, Stream]:
    """Both halves for both networks, each with two views and as many entries as an epoch has examples."""
    view = Augmentation(**parts.config.augment)
    stream = Stream(
        batch_size=parts.config.batch_size,
        field="batch_size",
        planned=True,
        least_planned=_epoch_examples(parts),
        views=dict.fromkeys(VIEWS, view),
    )
    return {f"{half}_{k}": stream for k in (1, 2) for half in _HALVES}


def _epoch_examples(parts: Parts) -> int:
    return parts.num_steps // parts.config.num_epochs * parts.config.batch_size


def _stacked(*batches: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


def _two_classifiers(make_variables, model_rng, weight_rng) -> dict:
    del weight_rng
    variables = _stacked(*(make_variables(key) for key in jax.random.split(model_rng, NETWORKS)))
    return {"params": variables.pop("params"), "model_state": variables}


def _unknown(parts: Parts) -> dict[str, np.ndarray]:
    """What the plans change: per network and example, the loss and the probability that its label is right."""
    shape = (NETWORKS, parts.num_examples)
    given = parts.data.biased.given.astype(np.int32)
    return {
        "losses": np.zeros(shape, np.float32),
        "right": np.full(shape, 0.5, np.float32),
        "label": given,
        "confidence": np.ones(len(given), np.float32),
    }


def _plan(parts: Parts, start: EpochStart, threshold: float) -> Plan:
    """Divides the training set for each network by the other's losses."""
    if start.number < parts.config.warmup_epochs:
        return Plan()
    given, rng = parts.data.biased.given, generator(parts.config.seed, Purpose.DIVISION, start.number)
    found = start.measure("train", the_classifier(start.state)[""])
    right = [probability_right(losses, int(rng.integers(2**31))) for losses in found.network_losses.T]
    selections = {}
    for k, by_other in enumerate(reversed(right), 1):
        for half, rows in zip(_HALVES, divided(by_other, threshold), strict=True):
            rows = np.resize(rng.permutation(rows), _epoch_examples(parts))
            selections[f"{half}_{k}"] = Selection(rows, given[rows])
    is_right = np.mean(right, axis=0) > threshold
    new = {
        "losses": found.network_losses.T,
        "right": np.array(right),  # by a network's own losses; the other network uses it
        "label": np.where(is_right, given, found.predictions),
        "confidence": np.where(is_right, 1, found.confidence),
    }
    return Plan(selections, new_weight_params(start, new))


def divided(right: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples into labelled and unlabelled ones; neither part is empty.

    Args:
        right: [N] float, the probabilities that their labels are right; N at least 2.
        threshold: labelled ones are above it. The likeliest is always labelled, the unlikeliest never.

    Returns:
        The rows of both parts.
    """
    above = right > threshold
    order = np.argsort(-right, kind="stable")
    above[order[0]], above[order[-1]] = True, False
    return np.flatnonzero(above), np.flatnonzero(~above)


def _numbers(parts: Parts, selections: Mapping[str, Selection]) -> dict[str, float]:
    """The share of labels that network 1 takes as right, and of these the share that are; NaN if not known."""
    if "labelled_1" not in selections:
        return {}
    rows, biased = np.unique(selections["labelled_1"].rows), parts.data.biased
    all_visited = len(rows) < _epoch_examples(parts)  # of the rows that it takes as right
    right = np.mean(~biased.is_wrong[rows]) if biased.truth_known else np.nan
    return {
        "labelled_percent": float(100 * len(rows) / parts.num_examples) if all_visited else float("nan"),
        "labelled_right_percent": float(100 * right),
    }


def _corrected(parts: Parts, plan: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of corrected.npz: where labels are likely wrong, what both networks predict together."""
    rows = np.eye(parts.num_classes, dtype=np.float32)[np.asarray(plan["label"])]
    rows *= np.asarray(plan["confidence"])[:, None]
    return correction_arrays(parts.data, rows, parts.config.seed)


def check(config: ConfigDict) -> None:
    """Raises a UsageError without a warm-up, or if both networks would start alike."""
    check_warmup(config)
    for name in ("init", "pretrained"):
        if config.model[name]:
            raise UsageError(
                f"model.{name} is {config.model[name]!r}, from which both networks of dividemix would start "
                f"alike, and make the same mistakes: leave it empty"
            )


SPEC = Spec("dividemix", build, check, fields=FIELDS)
