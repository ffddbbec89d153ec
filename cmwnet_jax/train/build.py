"""Turns a config's names into the model, the steps and the state; `build_data` does it for data."""

import dataclasses
import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax.data.batches import TrainOrder
from cmwnet_jax.errors import UsageError, about
from cmwnet_jax.models import MODELS, check_image, model_fields
from cmwnet_jax.models.pretrained import load_pretrained
from cmwnet_jax.schedules import step_decay, warm_restarts
from cmwnet_jax.soft_labels import Teacher
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build_data import Data, check_augmentation, train_order
from cmwnet_jax.train.build_method import MAKERS
from cmwnet_jax.train.check_combined import check_length
from cmwnet_jax.train.method_parts import Method, Parts
from cmwnet_jax.train.methods import METHODS, Kind, kind_of
from cmwnet_jax.train.programs import InPasses
from cmwnet_jax.transfer import SavedWeightNet
from cmwnet_jax.types import MetaState, PyTree, StepFn
from cmwnet_jax.weight_net import WeightNet, weighting_functions

_MOST_PARAMETERS = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What a run computes: `warmup(state, batch, meta_batch)` first, `main(...)` after it.

    `learned_elsewhere` is what the weight net starts from; None for a random one.
    """

    model: nn.Module
    kind: Kind
    weight_net: WeightNet | None
    learned_elsewhere: SavedWeightNet | None
    learning_rate: optax.Schedule
    warmup: StepFn
    main: StepFn | InPasses
    state: MetaState
    order: TrainOrder
    warmup_epochs: int
    meta_every_steps: int
    one_step_a_call: bool

    @property
    def frozen_range(self) -> tuple[float, float] | None:
        """The losses that a frozen weight net has learned from, the lowest and the highest."""
        if self.learned_elsewhere is None or self.kind.learns_weights:
            return None
        return self.learned_elsewhere.loss_range

    def learns_weights(self, epoch: int) -> bool:
        """Whether weights are learned in this epoch, and so a meta set is needed."""
        return self.kind.learns_weights and epoch >= self.warmup_epochs

    def weighs(self, epoch: int) -> bool:
        """Whether examples have weights in this epoch, learned in it or by a weight net from elsewhere."""
        return epoch >= self.warmup_epochs and (self.kind.learns_weights or self.kind.has_weight_net)

    def meta_steps(self, epoch: int) -> np.ndarray:
        """[steps] bool, in which of an epoch's steps the weight net learns."""
        numbers = np.arange(epoch * self.order.steps, (epoch + 1) * self.order.steps)
        return self.learns_weights(epoch) & (numbers % self.meta_every_steps == 0)

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
    order = train_order(config, data)
    check_length(config, order.steps)
    check_augmentation(config, data.image_shape)
    check_image(config.model.name, data.image_shape)
    model = build_model(config, data.source.num_classes)
    _check_size(config, model, data.image_shape)
    steps = config.num_epochs * order.steps
    fields = config.optimizer
    learning_rate = _learning_rate(config, order.steps)
    optimizer = optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.sgd(learning_rate, momentum=fields.momentum, nesterov=fields.nesterov),
    )
    method = MAKERS[config.method](Parts(config, data, model, optimizer, learning_rate, steps))
    images = jnp.zeros((1, *data.image_shape))
    state = _initial_state(config, model, images, method, optimizer)
    variables = {"params": state.params, **state.model_state}
    return Recipe(
        model=model,
        kind=kind_of(config),
        weight_net=method.weight_net,
        learned_elsewhere=method.learned_elsewhere,
        learning_rate=learning_rate,
        warmup=method.warmup,
        main=method.main,
        state=state,
        order=order,
        warmup_epochs=config.warmup_epochs,
        meta_every_steps=config.meta_every_steps,
        one_step_a_call=config.low_memory
        or parallel.loops_are_slow(lambda v, x: model.apply(v, x, train=False), variables, images),
    )


def _learning_rate(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    fields, steps = config.optimizer, config.num_epochs * epoch_steps
    if fields.schedule == "warm_restarts":
        return warm_restarts(
            fields.learning_rate,
            steps,
            constant_steps=config.warmup_epochs * epoch_steps,
            first_cycle_steps=fields.first_cycle_epochs * epoch_steps,
            least=fields.least_learning_rate,
        )
    return step_decay(fields.learning_rate, steps, fields.decay_at_percent, fields.decay_factor)


def build_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The classifier; for LDAM with the normalised head of its authors (Q27).

    Args:
        config: the run's.
        num_classes: C.
    """
    name = config.model.name
    own = {"hidden": tuple(config.model.hidden), "batch_norm": config.model.batch_norm}
    uses_ldam = config.method == "ldam" or config.loss.name == "ldam"
    return MODELS[name](
        num_classes=num_classes,
        axis_name=parallel.axis_name() if config.model.batch_norm_over == "all" else None,
        dtype=jnp.dtype(config.model.dtype),
        cosine_scale=config.loss.ldam_scale if uses_ldam else 0.0,
        **{field: value for field, value in own.items() if field in model_fields(name)},
    )


def _check_size(config: ConfigDict, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Checks that a classifier whose layers the config sizes is one that memory could hold."""
    if "hidden" not in model_fields(config.model.name):
        return
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    if count > _MOST_PARAMETERS:
        raise UsageError(
            f"model.hidden is {config.model.hidden}, which on images of {' x '.join(map(str, image_shape))} "
            f"comes to {count} parameters, expected at most {_MOST_PARAMETERS}: choose fewer units"
        )


def _initial_state(
    config: ConfigDict, model: nn.Module, images: jax.Array, method: Method, optimizer
) -> MetaState:
    pretrained = _pretrained(config, model, images)

    def create(rng, variables):
        model_rng, weight_rng, step_rng = jax.random.split(rng, 3)
        if variables is None:
            variables = model.init(model_rng, images, train=False)
        model_state = {name: value for name, value in variables.items() if name != "params"}
        return MetaState.create(
            params=variables["params"],
            model_state=model_state,
            weight_params=method.init_weights(weight_rng),
            optimizer=optimizer,
            weight_optimizer=method.weight_optimizer,
            rng=step_rng,
            teacher=Teacher(variables["params"], model_state) if METHODS[config.method].has_teacher else (),
        )

    return jax.jit(create)(jax.random.key(config.seed), pretrained).replace(memory=method.memory)


def _pretrained(config: ConfigDict, model: nn.Module, images: jax.Array) -> PyTree | None:
    """The variables to start from, where a file of them is named; what of them is random is said."""
    if not config.model.pretrained:
        return None
    blank = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(config.seed))
    with about("model.pretrained"):
        variables, report = load_pretrained(config.model.pretrained, config.model.name, blank)
    if parallel.is_first():
        kept = ", ".join(report.as_initialised) or "nothing"
        print(f"{len(report.loaded)} arrays are pretrained; at random as before: {kept}", file=sys.stderr)
    return variables
