"""Shared by MW-Net, CMW-Net and CMW-Net-SL: a weight net, learned or frozen (Algorithms 1 and 2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cmwnet_jax.core.low_memory import make_low_memory_step
from cmwnet_jax.core.meta_step import make_meta_step
from cmwnet_jax.core.step_parts import NORMALIZATIONS
from cmwnet_jax.core.switched import every
from cmwnet_jax.core.types import ObjectiveFn, StepFn
from cmwnet_jax.core.weight_net import WeightNet, weighting_functions
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import meta_data, saved_nets, steps
from cmwnet_jax.methods.base import Method, Parts, Phase, WeightNetRole, one_classifier
from cmwnet_jax.methods.fields import (
    INT32,
    LARGE,
    MANY,
    Field,
    between,
    is_nothing,
    local_file,
    more_than_nothing,
    one_of,
)
from cmwnet_jax.methods.plain import weighted_step
from cmwnet_jax.transfer.portable import encoded

FIELDS = {
    **meta_data.FIELDS,
    "meta_every_steps": Field(
        1,
        "Steps between updates of the weight net, which weighs examples in every step (Algorithm 1: 1).",
        between(1, INT32),
    ),
    "low_memory": Field(
        False,
        "mwnet and cmwnet: whether the meta step runs as four programs, for models that fill the memory. "
        "Its peak memory is about that of plain training; it takes some 30% more time "
        "(`make_low_memory_step`).",
    ),
    "delayed_weights": Field(
        False,
        "Whether the classifier is updated with the weights from before the weight net's update, for which a "
        "meta step costs 8 forward passes instead of 10.",
    ),
    "independent_examples": Field(
        False,
        "Promises that no example's loss depends on another example, as without BatchNorm; it is checked. A "
        "meta step then costs 8 forward passes instead of 10, or 7 with delayed_weights.",
    ),
    "weight_net.num_meta_classes": Field(
        3,
        "Methods with cmwnet in their name: K, the number of meta-classes; all other methods have 1.",
        between(1, MANY),
    ),
    "weight_net.hidden": Field(
        100,
        "Units of the weight net's hidden layer.",
        between(1, 2**16),
    ),
    "weight_net.learning_rate": Field(
        1e-3,
        "Learning rate of the weight net's Adam optimiser.",
        between(0, LARGE),
    ),
    "weight_net.weight_decay": Field(
        1e-4,
        "Coupled L2 weight decay of the weight net's parameters. It pulls all weights to 0.5 once the "
        "classifier's learning rate, and the meta-gradient with it, has been cut; 0.0 keeps what was learned.",
        between(0, LARGE),
    ),
    "weight_net.normalize": Field(
        "sum",
        "All but cmwnet_sl: divisor of the weights: sum (their sum), mean (the batch size) or none (1; Q1).",
        one_of(NORMALIZATIONS),
    ),
    "weight_net.init": Field(
        "",
        "Learned weight net to start from (Algorithm 2): a run, checkpoint, saved weight net, exported file "
        "or zoo:NAME, with the same number of meta-classes and hidden units; empty: random. The run's folder "
        "keeps a copy.",
        local_file,
    ),
    "weight_net.frozen": Field(
        False,
        "Whether the weight net stays fixed: no meta steps and no meta set, at the cost of plain training.",
    ),
}
"""Config fields of these methods."""

OPTIONS = ("delayed_weights", "independent_examples", "weight_net.init", "weight_net.frozen")
"""Those fields that only these methods read."""


def with_weight_net(
    parts: Parts,
    warmup: Phase | None,
    objective: ObjectiveFn,
    normalize: str,
    around=lambda step: step,
    judge=None,
    initial=one_classifier,
    meta_loss=None,
    **fields,
) -> Method:
    """Builds the warm-up, then steps weighted by a weight net, which is trained unless it is frozen.

    Args:
        parts: the pieces of the run.
        warmup: the warm-up phase; None for none, whatever the config says.
        objective: the objective to minimise.
        normalize: as in `make_meta_step`.
        around: wraps a step of core: step -> step, each (state, batch, ...) -> (state, metrics).
        judge: state -> variables of the classifier that selects the meta data; None for the trained one.
        initial: as in `Method`, without the weight net.
        meta_loss: as in `meta_data.meta_loss`.
        **fields: further fields of `Method`. With `streams`, the objective reads all of these by name, and
            they include the meta stream unless the weight net is frozen; without, it reads `train`.

    Raises:
        UsageError: the config's weight net cannot be used here.
    """
    config, net = parts.config, weight_net(parts)
    learned = saved_nets.learned_elsewhere(config, parts.meta_classes.num_meta_classes)
    learns, again = not config.weight_net.frozen, fields.get("refitted")
    # Meta-classes that are clustered anew are never more than there are classes.
    is_used = (
        parts.meta_classes.is_used if again is None else np.arange(net.num_meta_classes) < parts.num_classes
    )
    if learned is not None and not learns:
        saved_nets.warn_of_heads_without_class(learned, is_used)

    def start(make_variables, model_rng, weight_rng):
        if learned is None:
            weight_params = net.init(weight_rng, jnp.zeros(1), jnp.zeros(1, jnp.int32))
        else:
            weight_params = jax.tree.map(jnp.asarray, learned.weight_params)
        return {**initial(make_variables, model_rng, weight_rng), "weight_params": weight_params}

    stream = None if "streams" in fields else "train"
    first_epoch = 0 if warmup is None else config.warmup_epochs
    if stream is not None and learns:
        fields |= meta_data.meta_fields(parts) if judge is None else meta_data.meta_fields(parts, judge)
    main = Phase(
        _step(parts, objective, normalize, around, stream, first_epoch, meta_loss),
        streams=tuple(fields.get("streams", ("train",))),
        first_epoch=first_epoch,
        weighs=True,
        learns=lambda numbers: learns & (numbers % config.meta_every_steps == 0),
    )
    if learns:
        fields["weight_optimizer"] = _weight_optimizer(config)
    refitted = again or (lambda state: parts.meta_classes)
    clustered = {} if again is None else {"meta_classes": "clustered anew before each epoch"}
    role = WeightNetRole(
        functions=lambda params, losses: weighting_functions(net.apply, params, losses, net.num_meta_classes),
        save=lambda state, *seen: saved_nets.as_saved(
            parts,
            {"normalize": normalize, **clustered},
            learned,
            is_used,
            state.weight_params,
            refitted(state),
            *seen,
        ),
        known_range=None if learned is None else learned.loss_range,
        learns=learns,
        content=None if learned is None else encoded(learned),
    )
    phases = (main,) if warmup is None else (warmup, main)
    return parts.method(phases, initial=start, weight_net=role, **fields)


def check(config: ConfigDict) -> None:
    """Raises a UsageError if fields contradict each other or nothing would be learned."""
    meta_data.check(config)
    if config.loss.name == "focal":
        more_than_nothing(config, "loss.focal_gamma")
    fields = config.weight_net
    if fields.frozen and not fields.init and fields.learning_rate:
        raise UsageError(
            "weight_net.frozen is True, but weight_net.init is empty, and a random weight net would never "
            "learn: name a learned one there (or set weight_net.learning_rate to 0, too, for a random one as a "
            "control)"
        )
    if not fields.frozen and is_nothing(fields.learning_rate):
        raise UsageError(
            f"weight_net.learning_rate is {fields.learning_rate}, with which the weight net would never learn: "
            f"set it to more than 0, or weight_net.frozen to True"
        )
    if not fields.frozen:
        meta_data.check_virtual_step(config)
    for name in ("delayed_weights", "independent_examples"):
        if config[name] and fields.frozen:
            raise UsageError(
                f"{name} is True, but with weight_net.frozen there is no meta step that it could change: set "
                f"it to False"
            )
    if config.independent_examples and config.low_memory:
        raise UsageError(
            "independent_examples is True, but low_memory keeps no activations from which it could save "
            "passes: set one of the two to False"
        )
    if config.low_memory and fields.frozen:
        raise UsageError(
            "low_memory is True, but with weight_net.frozen there is no meta step, and plain training's memory "
            "is all that a run takes: set it to False"
        )


def _check_some_step_learns(parts: Parts, first_epoch: int) -> None:
    config, total = parts.config, parts.num_steps
    start, every = first_epoch * (total // config.num_epochs), config.meta_every_steps
    if -(-start // every) * every >= total or every > total:  # learning at step 0 alone does not count
        raise UsageError(
            f"meta_every_steps is {every}, but the steps from {start}, after the warm-up, to {total} have no "
            f"multiple of it but 0, so that no weights would be learned: lower it, or train for more epochs"
        )


def _step(
    parts: Parts,
    objective: ObjectiveFn,
    normalize: str,
    around: Callable[[StepFn], StepFn],
    stream: str | None,
    first_epoch: int,
    meta_loss: Callable,
) -> steps.Step:
    """Makes meta steps every `meta_every_steps`, weighted steps between; a frozen net needs no meta steps."""
    weigh = {"weight_fn": weight_net(parts).apply, "normalize": normalize}
    between = steps.weighted(around(weighted_step(parts, objective, **weigh)), stream)
    if parts.config.weight_net.frozen:
        return between
    _check_some_step_learns(parts, first_epoch)
    learned = {
        "objective": objective,
        "meta_loss": meta_data.meta_loss(parts, meta_loss),
        "optimizer": parts.optimizer,
        "weight_optimizer": _weight_optimizer(parts.config),
        "virtual_lr": parts.learning_rate,
        "virtual_filter": parts.virtual_filter,
        "axis_name": parts.axis_name,
        "delayed_weights": parts.config.delayed_weights,
        **weigh,
    }
    if parts.config.low_memory:
        step: StepFn = make_low_memory_step(
            **learned, micro_batches=parts.config.micro_batches, compile=parts.compile, donate=True
        )
        meta_step = steps.InPasses(steps.meta(step))
    else:
        promised = parts.config.independent_examples
        meta_step = steps.meta(around(make_meta_step(**learned, independent_examples=promised)), stream)
    return every(parts.config.meta_every_steps, meta_step, between)


def weight_net(parts: Parts) -> WeightNet:
    """Makes the run's weight net, without parameters.

    Args:
        parts: the pieces of the run.
    """
    return WeightNet(parts.meta_classes.num_meta_classes, parts.config.weight_net.hidden)


def _weight_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_net.weight_decay), optax.adam(config.weight_net.learning_rate)
    )
