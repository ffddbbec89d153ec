"""Builds the model, the method and the initial state from a config and its data."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import MetaState
from cmwnet_jax.data import kinds
from cmwnet_jax.data.augment import check_augmentation
from cmwnet_jax.data.batches import BalancedOrder, BatchOrder, Raw
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.methods import DEFAULT, METHODS
from cmwnet_jax.methods.base import Method, Parts, Stream
from cmwnet_jax.methods.fields import mixing_off, value_of
from cmwnet_jax.methods.steps import InPasses, Step, Switched
from cmwnet_jax.models import MODELS, check_image, check_kind, model_fields
from cmwnet_jax.models.heads import linear_head
from cmwnet_jax.train import parallel
from cmwnet_jax.train.optimizers import (
    learning_rate_schedule,
    make_optimizer,
    trainable_filter,
    virtual_schedule,
)
from cmwnet_jax.train.start_from import start_variables

_MOST_PARAMETERS = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """The built parts of a run.

    Attributes:
        model: the classifier.
        method: the method, with its steps.
        learning_rate: step -> learning rate of the classifier.
        state: the initial state, on one device; its table is on the host.
        orders: unplanned stream -> the rows of each of its batches.
        epoch_steps: steps per epoch.
        one_step_a_call: whether Python calls each step; otherwise consecutive steps are one program.
    """

    model: nn.Module
    method: Method
    learning_rate: optax.Schedule
    state: MetaState
    orders: Mapping[str, BatchOrder | BalancedOrder]
    epoch_steps: int
    one_step_a_call: bool


def build_recipe(config: ConfigDict, data: Data, model: nn.Module | None = None) -> Recipe:
    """Builds the model, the method and the initial state.

    Args:
        config: the run's config, already checked.
        data: the run's data.
        model: (inputs, train) -> logits [n, C]; None for the config's.

    Raises:
        UsageError: config and data do not fit together, or the method needs another head than `model` has.
    """
    spec = METHODS[config.method]
    spec.check_data(config, data)
    _check_batch_size(config, data)
    epoch_steps = config.epoch_steps or len(data.biased.ids) // config.batch_size
    _check_length(config, epoch_steps)
    _check_mixing(config, data)
    if model is None:
        model = _build_checked_model(config, data)
    elif spec.head(config) is not linear_head:
        raise UsageError(
            f"method is {config.method!r}, whose classifier has a head of its own, expected one that trains "
            f"any module, e.g. {DEFAULT!r}: take another method, or a model by name"
        )
    learning_rate = learning_rate_schedule(config, epoch_steps)
    optimizer = make_optimizer(config, learning_rate)
    method = spec.build(
        Parts(
            config=config,
            data=data,
            model=model,
            optimizer=optimizer,
            learning_rate=virtual_schedule(config, learning_rate),
            num_steps=config.num_epochs * epoch_steps,
            meta_classes=fit_meta_classes(config, data),
            axis_name=parallel.axis_name(),
            virtual_filter=trainable_filter(config.optimizer.trainable),
            compile=parallel.pmap,
        )
    )
    _check_streams(config, method, data)
    inputs = jnp.asarray(data.blank())
    state = _initial_state(config, model, inputs, method, optimizer)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), inputs)
    _check_independence(config, variables)
    slow = parallel.loops_are_slow(lambda v, x: model.apply(v, x, train=False), variables, inputs)
    return Recipe(
        model=model,
        method=method,
        learning_rate=learning_rate,
        state=state,
        orders=_orders(config, data, method, epoch_steps),
        epoch_steps=epoch_steps,
        one_step_a_call=slow or any(_is_in_passes(phase.step) for phase in method.phases),
    )


def _build_checked_model(config: ConfigDict, data: Data) -> nn.Module:
    """Builds the config's classifier if it can take these inputs."""
    check_kind(config.model.name, data.kind)
    if data.kind == kinds.IMAGES:
        check_image(config.model.name, data.image_shape)
    model = build_model(config, data.source.num_classes, data.source.vocabulary)
    _check_size(config, model, data.blank())
    return model


def fit_meta_classes(config: ConfigDict, data: Data) -> MetaClasses:
    """Computes the meta-classes of the run's method from the sizes of the given classes.

    Args:
        config: the run's config.
        data: the run's data.
    """
    spec = METHODS[config.method]
    count = spec.num_meta_classes(config) if spec.clusters_labels else 1
    with naming_field("weight_net"):
        found = MetaClasses.of_counts(data.biased.class_counts, count)
    found.warn_of_unused()
    return found


def _check_mixing(config: ConfigDict, data: Data) -> None:
    """Raises a UsageError if tokens would be mixed up, which are no quantities."""
    if data.kind != kinds.TOKENS:
        return
    mixing = {
        name: off for name, off in mixing_off(METHODS[config.method].fields).items() if value_of(config, name)
    }
    if mixing:
        are = " and ".join(f"{name} is {value_of(config, name)}" for name in mixing)
        flags = " ".join(f"--config.{name}={off}" for name, off in mixing.items())
        raise UsageError(f"{are}, but {config.data.name} holds tokens, which cannot be mixed: set {flags}")


def _check_independence(config: ConfigDict, variables: Mapping[str, Any]) -> None:
    """Raises a UsageError if BatchNorm makes examples dependent that should not be; steps check the rest."""
    if config.independent_examples and "batch_stats" in variables:
        raise UsageError(
            f"independent_examples is True, but the BatchNorm of {config.model.name} makes each loss depend on "
            f"the other examples of the batch: set it to False, or use a model without BatchNorm"
        )


def _check_batch_size(config: ConfigDict, data: Data) -> None:
    examples = len(data.biased.ids)
    if config.batch_size > examples:
        raise UsageError(
            f"batch_size is {config.batch_size}, expected at most the {examples} training examples "
            f"that {config.data.name} has under the bias {config.data.bias!r}: lower it"
        )


def _check_length(config: ConfigDict, epoch_steps: int) -> None:
    """Raises a UsageError for more steps than int32 can count."""
    total = config.num_epochs * epoch_steps
    if total >= 2**31:
        raise UsageError(
            f"num_epochs is {config.num_epochs}, which comes to {total} steps, expected fewer than {2**31}: "
            f"lower it"
        )


def _check_streams(config: ConfigDict, method: Method, data: Data) -> None:
    """Raises a UsageError if images are too small for a view, or devices cannot share a batch evenly."""
    for stream in method.streams.values():
        for change in stream.views.values():
            check_augmentation(change, data.image_shape)
        parallel.check_divides(stream.field, stream.batch_size, config.micro_batches)
        if stream.least_planned is not None:
            parallel.round_down(stream.planned_by or stream.field, stream.least_planned, config.micro_batches)


def _orders(
    config: ConfigDict, data: Data, method: Method, epoch_steps: int
) -> dict[str, BatchOrder | BalancedOrder]:
    orders = {}
    for name, stream in method.streams.items():
        if stream.planned:
            continue
        split = data.splits[stream.split]
        orders[name] = batch_order(config, name, stream, len(split), epoch_steps)
        if stream.balanced_from is not None:
            labels = split.label if isinstance(split, Raw) else split.labels
            orders[name] = BalancedOrder(orders[name], np.asarray(labels), stream.balanced_from)
    return orders


def batch_order(
    config: ConfigDict, name: str, stream: Stream, num_examples: int, epoch_steps: int
) -> BatchOrder:
    """Makes a stream's batch order; batches have a size that the devices can share evenly.

    Args:
        config: the run's config.
        name: the stream's name.
        stream: the stream.
        num_examples: examples of the stream; if they are fewer than a batch, every batch has as many of them
            as can be shared.
        epoch_steps: steps per epoch.
    """
    most = min(stream.batch_size, num_examples)
    size = parallel.round_down(stream.field, most, config.micro_batches)
    if size < most:
        warnings.warn(
            f"batches of the stream {name!r} have {size} instead of {most} examples, as many as "
            f"{parallel.in_words(config.micro_batches)} can share evenly ({stream.field})",
            stacklevel=2,
        )
    return BatchOrder(config.seed, num_examples, size, epoch_steps, name)


def _is_in_passes(step: Step) -> bool:
    return isinstance(step, InPasses) or (isinstance(step, Switched) and isinstance(step.if_true, InPasses))


def build_model(config: ConfigDict, num_classes: int, vocabulary: int = 0) -> nn.Module:
    """Builds the classifier, with the head that its method requires.

    Args:
        config: the run's config.
        num_classes: C.
        vocabulary: number of tokens, for models that take tokens.
    """
    name, fields = config.model.name, ("hidden", "batch_norm", "width", "layers", "heads")
    own = {field: config.model[field] for field in fields} | {"vocabulary": vocabulary}
    own["hidden"] = tuple(own["hidden"])
    return MODELS[name](
        num_classes=num_classes,
        axis_name=parallel.axis_name() if config.model.batch_norm_over == "all" else None,
        dtype=jnp.dtype(config.model.dtype),
        make_head=METHODS[config.method].head(config),
        **{field: value for field, value in own.items() if field in model_fields(name)},
    )


def _check_size(config: ConfigDict, model: nn.Module, inputs: np.ndarray) -> None:
    """Checks that memory could hold a classifier whose layer sizes come from the config."""
    own = [field for field in ("hidden", "width") if field in model_fields(config.model.name)]
    if not own:
        return
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), inputs)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    if count > _MOST_PARAMETERS:
        shape = " x ".join(map(str, inputs.shape[1:]))
        raise UsageError(
            f"model.{own[0]} is {config.model[own[0]]}, which on inputs of {shape} "
            f"comes to {count} parameters, expected at most {_MOST_PARAMETERS}: choose fewer units"
        )


def _initial_state(
    config: ConfigDict, model: nn.Module, inputs: jax.Array, method: Method, optimizer
) -> MetaState:
    given = start_variables(config, model, inputs)

    def create(rng, given):
        model_rng, weight_rng, step_rng = jax.random.split(rng, 3)

        def make_variables(key):
            return model.init(key, inputs, train=False) if given is None else given

        return MetaState.create(
            **method.initial(make_variables, model_rng, weight_rng),
            optimizer=optimizer,
            weight_optimizer=method.weight_optimizer,
            rng=step_rng,
        )

    return jax.jit(create)(jax.random.key(config.seed), given).replace(memory=method.memory)
