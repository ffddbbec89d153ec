"""Turns a config's names into the model, the steps and the state; `build_data` does it for data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax import mixing
from cmwnet_jax.data.batches import TrainOrder
from cmwnet_jax.meta_step import make_meta_step, make_weighted_step
from cmwnet_jax.models import MODELS
from cmwnet_jax.objectives import classification_meta_loss, classification_objective
from cmwnet_jax.schedules import step_decay
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build_data import Data, train_order
from cmwnet_jax.types import MetaLossFn, MetaState, PyTree, StepFn
from cmwnet_jax.weight_net import WeightNet, weighting_functions


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What a run computes: `warmup(state, batch, meta_batch)` first, `main(...)` after it."""

    model: nn.Module
    weight_net: WeightNet | None
    learning_rate: optax.Schedule
    warmup: StepFn
    main: StepFn
    state: MetaState
    order: TrainOrder
    warmup_epochs: int
    meta_every_steps: int
    one_step_a_call: bool

    def meta_steps(self, epoch: int) -> np.ndarray:
        """[steps] bool, in which of an epoch's steps the weight net learns."""
        numbers = np.arange(epoch * self.order.steps, (epoch + 1) * self.order.steps)
        learns = self.weight_net is not None and epoch >= self.warmup_epochs
        return learns & (numbers % self.meta_every_steps == 0)

    def weighting_arrays(self, weight_params: PyTree, history: list[dict]) -> dict[str, np.ndarray]:
        """The weighting functions for weights.npz, from loss 0 to the highest that was learned from.

        Args:
            weight_params: the weight net's parameters.
            history: every epoch's metrics.
        """
        learned = [line["loss_max"] for line in history if line["epoch"] >= self.warmup_epochs]
        if self.weight_net is None or not learned:
            return {}
        grid = jnp.linspace(0, max(learned), 200)
        count = self.weight_net.num_meta_classes
        functions = weighting_functions(self.weight_net.apply, weight_params, grid, count)
        return {"grid": np.asarray(grid), "functions": np.asarray(functions)}


def build_recipe(config: ConfigDict, data: Data) -> Recipe:
    """The model, both steps and the state before the first of them."""
    model = MODELS[config.model.name](
        num_classes=data.source.num_classes,
        hidden=tuple(config.model.hidden),
        batch_norm=config.model.batch_norm,
        axis_name=parallel.axis_name() if config.model.batch_norm_over == "all" else None,
    )
    order = train_order(config, data)
    steps = config.num_epochs * order.steps
    fields = config.optimizer
    learning_rate = step_decay(fields.learning_rate, steps, fields.decay_at_percent, fields.decay_factor)
    optimizer = optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.sgd(learning_rate, momentum=fields.momentum, nesterov=fields.nesterov),
    )
    objective = classification_objective(model.apply, data.meta_classes)
    warmup = _ignoring_meta_batch(
        make_weighted_step(objective=objective, optimizer=optimizer, axis_name=parallel.axis_name())
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
            "axis_name": parallel.axis_name(),
        }
        meta_step = make_meta_step(
            meta_loss=_meta_loss(config, model, data.source.num_classes),
            weight_optimizer=weight_optimizer,
            virtual_lr=learning_rate,
            **shared,
        )
        main = _every(config.meta_every_steps, meta_step, _ignoring_meta_batch(make_weighted_step(**shared)))
    state = _initial_state(config.seed, model, data.image_shape, weight_net, optimizer, weight_optimizer)
    images = jnp.zeros((1, *data.image_shape))
    variables = {"params": state.params, **state.model_state}
    return Recipe(
        model=model,
        weight_net=weight_net,
        learning_rate=learning_rate,
        warmup=warmup,
        main=main,
        state=state,
        order=order,
        warmup_epochs=config.warmup_epochs,
        meta_every_steps=config.meta_every_steps,
        one_step_a_call=parallel.loops_are_slow(lambda v, x: model.apply(v, x, train=False), variables, images),
    )


def _meta_loss(config: ConfigDict, model: nn.Module, num_classes: int) -> MetaLossFn:
    """The mean cross-entropy on the meta batch, mixed with Beta(1, 1) where the config says so (Sec. 4.2)."""
    plain = classification_meta_loss(model.apply)
    if not config.meta_set.mixup:
        return plain

    def mixed(params, model_state, meta_batch, rng):
        mix_rng, rng = jax.random.split(rng)
        meta_batch = mixing.mix(meta_batch, mix_rng, num_classes=num_classes)
        return plain(params, model_state, meta_batch, rng)

    return mixed


def _initial_state(seed, model, image_shape, weight_net, optimizer, weight_optimizer) -> MetaState:
    def create(rng):
        model_rng, weight_rng, step_rng = jax.random.split(rng, 3)
        variables = model.init(model_rng, jnp.zeros((1, *image_shape)), train=False)
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
