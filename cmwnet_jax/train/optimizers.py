"""The classifier's optimiser: its config fields, its learning rates, and which parameters it moves."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cmwnet_jax.core.schedules import step_decay, warm_restarts
from cmwnet_jax.core.types import PyTree, VirtualFilter
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.methods.fields import LARGE, MANY, Field, between, check_entries, one_of, shown, within
from cmwnet_jax.transfer.array_facts import named

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("steps", "warm_restarts")

_LISTED = 24  # parameters that a message spells out; of more, their modules


def _percents(name: str, values: Any) -> None:
    """A check: shares of the steps."""
    if not all(type(percent) in (int, float) and 0 <= percent <= 100 for percent in values):
        raise UsageError(f"{name} is {shown(values)}, expected per cents of the steps, 0 to 100")
    check_entries(name, values)


def _patterns(name: str, values: Any) -> None:
    """A check: patterns of names."""
    if not all(type(pattern) is str and pattern and pattern.isprintable() for pattern in values):
        raise UsageError(
            f"{name} is {shown(values)}, expected patterns of parameters' names, each a text, e.g. ('head/*',)"
        )
    check_entries(name, values)


FIELDS = {
    "optimizer.name": Field(
        "sgd",
        "sgd (with momentum) or adamw, whose weight decay is decoupled.",
        one_of(OPTIMIZERS),
    ),
    "optimizer.learning_rate": Field(
        0.1,
        "The optimiser's learning rate at the start.",
        between(0, LARGE),
    ),
    "optimizer.virtual_learning_rate": Field(
        0.0,
        "The learning rate of the virtual step (Eq. 7), which is plain SGD whatever the optimiser is "
        "(Q17), for methods that learn weights; 0.0: the optimiser's current one, which is right for sgd. "
        "adamw needs one of its own, and a larger one: a trial with Adam on text gave AUC .83 at 0.01 to "
        "0.1, .88 at 1, .965 at 10.",
        between(0, LARGE),
    ),
    "optimizer.schedule": Field(
        "steps",
        "steps (it falls at given steps) or warm_restarts (constant in the warm-up, then cosines that"
        " start anew, each twice as long as the one before, SGDR).",
        one_of(SCHEDULES),
    ),
    "optimizer.decay_at_percent": Field(
        (60.0, 85.0),
        "steps only: the learning rate is multiplied by `decay_factor` at each of these shares of the steps.",
        _percents,
    ),
    "optimizer.decay_factor": Field(
        0.1,
        "The factor.",
        between(0, LARGE),
    ),
    "optimizer.first_cycle_epochs": Field(
        5,
        "warm_restarts only: epochs of the first cosine.",
        between(1, MANY),
    ),
    "optimizer.least_learning_rate": Field(
        1e-4,
        "warm_restarts only: where each cosine ends.",
        between(0, LARGE),
    ),
    "optimizer.momentum": Field(
        0.9,
        "sgd only: its momentum.",
        within("[0, 1)"),
    ),
    "optimizer.nesterov": Field(
        False,
        "sgd only: whether the momentum is Nesterov's.",
    ),
    "optimizer.weight_decay": Field(
        5e-4,
        "On every parameter that is trained: of sgd, coupled L2 (Q32); of adamw, decoupled.",
        between(0, LARGE),
    ),
    "optimizer.clip_norm": Field(
        0.0,
        "Gradients whose norm over all trained parameters is more than this are scaled down to it, before "
        "weight decay; 0.0: none are.",
        between(0, LARGE),
    ),
    "optimizer.trainable": Field(
        (),
        "Which of the classifier's parameters are trained, by patterns of their names, e.g. ('head/*',) (mlp's "
        "head is its last Dense); the others stay as they start, also in the virtual step. Running averages "
        "of BatchNorm follow all the same. Empty: all.",
        _patterns,
    ),
}
"""Config fields of the classifier's optimiser, in the order in which they are shown."""


def learning_rate_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """The optimiser's learning rate, by step.

    Args:
        config: the run's.
        epoch_steps: steps per epoch.
    """
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


def virtual_schedule(config: ConfigDict, learning_rate: optax.Schedule) -> optax.Schedule:
    """The virtual step's learning rate, by step.

    Args:
        config: the run's.
        learning_rate: the optimiser's.
    """
    fixed = config.optimizer.virtual_learning_rate
    return optax.constant_schedule(fixed) if fixed else learning_rate


def make_optimizer(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The classifier's optimiser; it moves the parameters that the config says, and no others.

    Args:
        config: the run's.
        learning_rate: by step.

    Raises:
        UsageError: where it is given parameters, a pattern that matches none of them.
    """
    fields = config.optimizer
    if fields.name == "adamw":
        parts = [optax.adamw(learning_rate, weight_decay=fields.weight_decay)]
    else:
        parts = [
            optax.add_decayed_weights(fields.weight_decay),
            optax.sgd(learning_rate, momentum=fields.momentum, nesterov=fields.nesterov),
        ]
    if fields.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(fields.clip_norm))
    moving, is_trained = optax.chain(*parts), trainable_filter(fields.trainable)
    if is_trained is None:
        return moving
    return optax.multi_transform({True: moving, False: optax.set_to_zero()}, is_trained)


def trainable_filter(patterns: Sequence[str]) -> VirtualFilter | None:
    """Which parameters are trained: params -> bools of their structure; None where all are.

    Args:
        patterns: of names such as `head/kernel`, as `fnmatch` has them: a `*` stands for any number of letters,
            slashes among them. Empty: all parameters are trained.

    Raises:
        UsageError: by what is returned, a pattern matches no parameter.
    """
    if not patterns:
        return None

    def is_trained(params: PyTree) -> PyTree:
        names = [name for name, _ in named(params)]
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                modules = sorted({f"{name.partition('/')[0]}/*" for name in names})
                raise unknown_name(
                    "a pattern in optimizer.trainable", pattern, names if len(names) <= _LISTED else modules
                )
        trained = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
        return jax.tree.unflatten(jax.tree.structure(params), trained)

    return is_trained
