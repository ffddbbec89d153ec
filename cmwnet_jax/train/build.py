"""Turns a config's names into objects; nothing else does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

import cmwnet_jax.models as models
from cmwnet_jax.data import bias, meta_set, sources
from cmwnet_jax.data.batches import Table
from cmwnet_jax.errors import UsageError
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.meta_step import make_meta_step, make_weighted_step
from cmwnet_jax.objectives import classification_meta_loss, classification_objective
from cmwnet_jax.schedules import step_decay
from cmwnet_jax.train import parallel
from cmwnet_jax.train.config import check_config
from cmwnet_jax.types import MetaState, StepFn
from cmwnet_jax.weight_net import WeightNet


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a run trains and tests on.

    Attributes:
        dataset: the data set as it came.
        biased: the training labels as given, and the truth about them.
        meta_classes: the meta-class of each class, by given labels.
        train, test: the biased training split and the test split, as tables.
        meta_table: what meta rows point into: a held-out table, or `train` itself.
    """

    dataset: sources.Dataset
    biased: bias.BiasedLabels
    meta_classes: MetaClasses
    train: Table
    test: Table
    meta_table: Table


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What a run computes: `warmup(state, batch, meta_batch)` first, `main(...)` after it."""

    model: nn.Module
    weight_net: WeightNet | None
    learning_rate: optax.Schedule
    warmup: StepFn
    main: StepFn
    state: MetaState


def build_data(config: ConfigDict) -> Data:
    """Loads the data set and puts the config's bias on it.

    Raises:
        UsageError: a field of the config is wrong, by itself or for this data set.
    """
    check_config(config)
    dataset = sources.load(config.data.name, config.data.dir)
    clean = bias.BiasedLabels.clean(dataset.train.labels, dataset.num_classes)
    held_out = None
    if config.meta_set.kind == "held_out":
        held_out, clean = meta_set.hold_out(clean, config.meta_set.per_class_examples, [config.seed, 0])
    biased = bias.apply(config.data.bias, clean, config.data.name, config.seed)
    _check_batch_size(config, biased)
    train = Table.create(dataset.train.images[biased.ids], biased.given)
    if held_out is None:
        meta_table = train
    else:
        meta_table = Table.create(dataset.train.images[held_out], dataset.train.labels[held_out], like=train)
    return Data(
        dataset=dataset,
        biased=biased,
        meta_classes=MetaClasses.fit(biased.class_counts, num_meta_classes(config)),
        train=train,
        test=Table.create(dataset.test.images, dataset.test.labels, like=train),
        meta_table=meta_table,
    )


def num_meta_classes(config: ConfigDict) -> int:
    """K: mwnet and erm have one meta-class, whatever the weight net's field says."""
    return config.weight_net.num_meta_classes if config.method == "cmwnet" else 1


def _check_batch_size(config: ConfigDict, biased: bias.BiasedLabels) -> None:
    if config.batch_size > len(biased.ids):
        raise UsageError(
            f"batch_size is {config.batch_size}, expected at most the {len(biased.ids)} training examples "
            f"that {config.data.name} has under the bias {config.data.bias!r}: lower it"
        )
    parallel.check_divides("batch_size", config.batch_size)


def build_recipe(config: ConfigDict, data: Data) -> Recipe:
    """The model, both steps and the state before the first of them."""
    model = getattr(models, {"mlp": "MLP"}[config.model.name])(
        num_classes=data.dataset.num_classes,
        hidden=tuple(config.model.hidden),
        batch_norm=config.model.batch_norm,
    )
    steps = config.num_epochs * (len(data.biased.ids) // config.batch_size)
    fields = config.optimizer
    learning_rate = step_decay(fields.learning_rate, steps, fields.decay_at_percent, fields.decay_factor)
    optimizer = optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.sgd(learning_rate, momentum=fields.momentum, nesterov=fields.nesterov),
    )
    objective = classification_objective(model.apply, data.meta_classes)
    warmup = _ignoring_meta_batch(
        make_weighted_step(objective=objective, optimizer=optimizer, axis_name=parallel.AXIS)
    )
    weight_net, weight_optimizer, main = None, None, warmup
    if config.method != "erm":
        weight_net = WeightNet(data.meta_classes.num_meta_classes, config.weight_net.hidden)
        weight_optimizer = optax.chain(
            optax.add_decayed_weights(config.weight_net.weight_decay),
            optax.adam(config.weight_net.learning_rate),
        )
        shared = {
            "objective": objective,
            "weight_fn": weight_net.apply,
            "optimizer": optimizer,
            "normalize": config.weight_net.normalize,
            "axis_name": parallel.AXIS,
        }
        meta_step = make_meta_step(
            meta_loss=classification_meta_loss(model.apply),
            weight_optimizer=weight_optimizer,
            virtual_lr=learning_rate,
            **shared,
        )
        main = _every(config.meta_every_steps, meta_step, _ignoring_meta_batch(make_weighted_step(**shared)))
    state = _initial_state(config.seed, model, data.train, weight_net, optimizer, weight_optimizer)
    return Recipe(model, weight_net, learning_rate, warmup, main, state)


def _initial_state(seed, model, table, weight_net, optimizer, weight_optimizer) -> MetaState:
    def create(rng):
        model_rng, weight_rng, step_rng = jax.random.split(rng, 3)
        variables = model.init(model_rng, jnp.zeros((1, *table.images.shape[1:])), train=False)
        weight_params = ()
        if weight_net is not None:
            weight_params = weight_net.init(weight_rng, jnp.zeros(1), jnp.zeros(1, jnp.int32))
        return MetaState.create(
            params=variables["params"],
            model_state={name: value for name, value in variables.items() if name != "params"},
            weight_params=weight_params,
            optimizer=optimizer,
            weight_optimizer=weight_optimizer,
            rng=step_rng,
        )

    return jax.jit(create)(jax.random.key(seed))


def _ignoring_meta_batch(weighted_step: StepFn) -> StepFn:
    """A weighted step with a meta step's arguments and metrics; what it has not is NaN."""

    def step(state, batch, meta_batch):
        del meta_batch
        state, metrics = weighted_step(state, batch)
        missing = jnp.full((), jnp.nan, metrics["loss"].dtype)
        return state, {**metrics, "meta_loss": missing, "meta_grad_norm": missing}

    return step


def _every(steps: int, meta_step: StepFn, between: StepFn) -> StepFn:
    """The meta step on each step whose number is a multiple of `steps`, the other one between."""
    if steps == 1:
        return meta_step

    def step(state, batch, meta_batch):
        return jax.lax.cond(state.step % steps == 0, meta_step, between, state, batch, meta_batch)

    return step


def build_meta_rows(config: ConfigDict, data: Data, epoch: int, losses: np.ndarray) -> np.ndarray:
    """This epoch's meta set, as ascending rows of `data.meta_table`.

    Args:
        config: the run's.
        data: the run's.
        epoch: number of the epoch, from 0.
        losses: [N] float, the training examples' under the current classifier.
    """
    labels, classes = data.biased.given, data.dataset.num_classes
    size = config.meta_set.per_class_examples
    if config.meta_set.kind == "held_out":
        return np.arange(len(data.meta_table.labels))
    if config.meta_set.kind == "balanced":
        return meta_set.balanced(labels, classes, size, [config.seed, 1, epoch])
    return meta_set.lowest_loss(losses, labels, classes, size)
