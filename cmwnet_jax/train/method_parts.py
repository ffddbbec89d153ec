"""What every method is made of, and what it comes to."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax import losses, objectives
from cmwnet_jax.class_sizes import ldam_margins
from cmwnet_jax.data.bias.labels import probabilities_by_id
from cmwnet_jax.data.probabilities import check_class_order, load_probabilities
from cmwnet_jax.errors import UsageError
from cmwnet_jax.low_memory import objective_in_micro_batches
from cmwnet_jax.memory import Table
from cmwnet_jax.meta_step import make_weighted_step
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build_data import Data
from cmwnet_jax.train.programs import InPasses
from cmwnet_jax.transfer import SavedWeightNet
from cmwnet_jax.transition import estimate_transition
from cmwnet_jax.types import ObjectiveFn, PyTree, StepFn
from cmwnet_jax.weight_net import WeightNet


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What every method is made of.

    Attributes:
        config: the run's.
        data: the run's.
        model: the classifier.
        optimizer: the classifier's.
        learning_rate: its learning rate, by step.
        num_steps: of the whole run.
    """

    config: ConfigDict
    data: Data
    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    num_steps: int

    @property
    def num_classes(self) -> int:
        """C."""
        return self.data.source.num_classes

    def objective(self, loss: losses.LossFn = losses.cross_entropy) -> ObjectiveFn:
        """The classification objective with this loss."""
        return objectives.classification_objective(self.model.apply, self.data.meta_classes, loss)

    def plain_step(self, objective: ObjectiveFn) -> StepFn:
        """ERM's step, with a meta step's arguments."""
        return self.weighted_step(objective=objective, optimizer=self.optimizer, axis_name=parallel.axis_name())

    def weighted_step(self, *, objective: ObjectiveFn, **arguments) -> StepFn:
        """`make_weighted_step`'s step in the run's micro-batches, with a meta step's arguments."""
        if self.config.micro_batches > 1:
            objective = objective_in_micro_batches(objective, self.config.micro_batches)
        return ignoring_meta_batch(make_weighted_step(objective=objective, **arguments))

    def at_step(self, percent: float) -> int:
        """The step at this share of the run."""
        return round(self.num_steps * percent / 100)


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """What a method trains with, and what its state holds besides the classifier.

    Attributes:
        warmup: (state, batch, meta_batch) -> (state, metrics), of the warm-up epochs.
        main: the same, of the epochs after them, or one in passes.
        weight_optimizer: the weights' optimiser, where they are learned.
        weight_net: the weight net, where there is one.
        init_weights: key -> initial weight parameters.
        memory: the state's table at the start; () for none.
        learned_elsewhere: what the weight net starts from, or stays if it is frozen; None for a random one.
    """

    warmup: StepFn
    main: StepFn | InPasses
    weight_optimizer: optax.GradientTransformation | None = None
    weight_net: WeightNet | None = None
    init_weights: Callable[[jax.Array], PyTree] = lambda key: ()
    memory: Table | tuple = ()
    learned_elsewhere: SavedWeightNet | None = None


def ignoring_meta_batch(weighted_step: StepFn) -> StepFn:
    """A weighted step with a meta step's arguments and metrics; what it has not is NaN."""

    def step(state, batch, meta_batch):
        del meta_batch
        state, metrics = weighted_step(state, batch)
        missing = jnp.full((), jnp.nan, metrics["loss"].dtype)
        return state, {**metrics, "meta_loss": missing, "meta_grad_norm": missing}

    return step


def choose_loss(parts: Parts, name: str) -> losses.LossFn:
    """The per-example loss of this name, with the config's settings."""
    fields, counts = parts.config.loss, parts.data.biased.class_counts
    if name == "focal":
        return partial(losses.focal, gamma=fields.focal_gamma)
    if name == "gce":
        return partial(losses.generalized_cross_entropy, q=fields.gce_q)
    if name == "ldam":
        margins = ldam_margins(counts, largest=fields.ldam_margin, scale=fields.ldam_scale)
        return partial(losses.ldam, margins=margins)
    if name == "forward":
        return partial(losses.forward_corrected, transition=_transition(parts))
    return losses.cross_entropy


def _transition(parts: Parts) -> np.ndarray:
    """[C, C] P(given | true), counted where no posterior is named, else estimated from it."""
    path, biased = parts.config.loss.forward_posterior, parts.data.biased
    if not path:
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
    shape = (len(parts.data.true_labels), parts.num_classes)
    hint = "write one with python -m cmwnet_jax.data posterior --of_given_labels"
    names, truth = parts.data.source.class_names, parts.data.true_labels
    field = "loss.forward_posterior"
    posterior = load_probabilities(field, path, shape, hint, true_labels=truth, class_names=names)
    posterior = probabilities_by_id(field, posterior, biased)
    check_class_order(field, path, posterior, biased.given)
    return estimate_transition(posterior)
