"""The classifier's optimiser: config fields, learning-rate schedules, and the choice of trained parameters."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from cmwnet_jax.core.schedules import cosine_7_16, step_decay, warm_restarts, with_linear_warmup
from cmwnet_jax.core.types import PyTree, VirtualFilter
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.methods.fields import LARGE, MANY, Field, between, check_entries, one_of, shown, within
from cmwnet_jax.transfer.array_facts import named

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("steps", "warm_restarts", "cosine", "cosine_7_16")

_LISTED = 24  # most parameters that a message lists; with more, it lists their modules


def _percents(name: str, values: Any) -> None:
    """Checks percentages of the run's steps."""
    if not all(type(percent) in (int, float) and 0 <= percent <= 100 for percent in values):
        raise UsageError(f"{name} is {shown(values)}, expected per cents of the steps, 0 to 100")
    check_entries(name, values)


def _patterns(name: str, values: Any) -> None:
    """Checks patterns of parameter names."""
    if not all(type(pattern) is str and pattern and pattern.isprintable() for pattern in values):
        raise UsageError(
            f"{name} is {shown(values)}, expected patterns of parameters' names, each a text, e.g. ('head/*',)"
        )
    check_entries(name, values)


FIELDS = {
    "optimizer.name": Field(
        "sgd",
        "The classifier's optimiser: sgd (with momentum), adam, or adamw (with decoupled weight decay).",
        one_of(OPTIMIZERS),
    ),
    "optimizer.learning_rate": Field(
        0.1,
        "Initial learning rate of the optimiser.",
        between(0, LARGE),
    ),
    "optimizer.virtual_learning_rate": Field(
        0.0,
        "Learning rate of the virtual step (Eq. 7), for methods that learn weights. This step is plain SGD "
        "with every optimiser (Q17). 0.0: the optimiser's current learning rate, which is right for sgd. "
        "adam and adamw need a separate, larger one: on texts, AdamW gave weight AUCs of .42 at 0.01, .51 at "
        "0.1, .72 at 1 and .80 at 10 (docs/composing.md).",
        between(0, LARGE),
    ),
    "optimizer.schedule": Field(
        "steps",
        "Learning-rate schedule: steps (drops at given steps), warm_restarts (constant in the warm-up, "
        "then cosine cycles, each twice as long as the previous one, SGDR), cosine (half a period, down to 0) "
        "or cosine_7_16 (7/16 of a cosine's half period, FixMatch's).",
        one_of(SCHEDULES),
    ),
    "optimizer.linear_warmup_epochs": Field(
        0.0,
        "Epochs in which the learning rate rises linearly from 0, before the schedule begins; 0.0: none. "
        "`warmup_epochs`, in which the loss is plain cross-entropy, are another thing.",
        between(0, MANY),
    ),
    "optimizer.two_phases": Field(
        False,
        "Whether the learning rate starts anew after `warmup_epochs`: linear warm-up and schedule then span "
        "these epochs, and again all others, as two phases.",
    ),
    "optimizer.decay_at_percent": Field(
        (60.0, 85.0),
        "steps only: per cents of the schedule's steps, which are the run's without the linear warm-up, at "
        "which the learning rate is multiplied by `decay_factor`.",
        _percents,
    ),
    "optimizer.decay_factor": Field(
        0.1,
        "steps only: factor of each drop of the learning rate.",
        between(0, LARGE),
    ),
    "optimizer.first_cycle_epochs": Field(
        5,
        "warm_restarts only: length of the first cosine cycle, in epochs.",
        between(1, MANY),
    ),
    "optimizer.least_learning_rate": Field(
        1e-4,
        "warm_restarts only: learning rate at the end of each cosine cycle.",
        between(0, LARGE),
    ),
    "optimizer.momentum": Field(
        0.9,
        "sgd only: momentum, in [0, 1).",
        within("[0, 1)"),
    ),
    "optimizer.nesterov": Field(
        False,
        "sgd only: whether to use Nesterov momentum.",
    ),
    "optimizer.weight_decay": Field(
        5e-4,
        "Weight decay of all trained parameters: coupled L2 with sgd and adam (Q32), decoupled with adamw.",
        between(0, LARGE),
    ),
    "optimizer.clip_norm": Field(
        0.0,
        "Maximum norm of the gradient over all trained parameters. Larger gradients are scaled down to it, "
        "before weight decay; 0.0: no clipping.",
        between(0, LARGE),
    ),
    "optimizer.trainable": Field(
        (),
        "Name patterns of the classifier's parameters to train, e.g. ('head/*',); the head of mlp is its last "
        "Dense. All others keep their initial values, also in the virtual step. The running averages of "
        "BatchNorm are updated in any case. Empty: all parameters are trained.",
        _patterns,
    ),
    "optimizer.slow": Field(
        (),
        "Name patterns of parameters whose learning rate is `slow_factor` times that of the others, e.g. "
        "('layer*',), as in fine-tuning; the virtual step has one rate for all. Empty: none.",
        _patterns,
    ),
    "optimizer.slow_factor": Field(
        0.1,
        "Factor of the learning rate of the parameters in `slow`, in (0, 1).",
        within("(0, 1)"),
    ),
}
"""Config fields of the classifier's optimiser, in display order."""


def learning_rate_schedule(config: ConfigDict, epoch_steps: int) -> optax.Schedule:
    """Makes the learning-rate schedule of the optimiser, of one phase or of two.

    Args:
        config: the run's config.
        epoch_steps: steps per epoch.
    """
    parts = [_phase_schedule(config, epochs, epoch_steps) for epochs in phase_epochs(config)]
    if len(parts) == 1:
        return parts[0]
    return optax.join_schedules(parts, [config.warmup_epochs * epoch_steps])


def phase_epochs(config: ConfigDict) -> tuple[int, ...]:
    """The numbers of epochs that the learning rate's schedule spans, one for each time that it starts.

    Args:
        config: the run's config.
    """
    if config.optimizer.two_phases:
        return config.warmup_epochs, config.num_epochs - config.warmup_epochs
    return (config.num_epochs,)


def _phase_schedule(config: ConfigDict, epochs: int, epoch_steps: int) -> optax.Schedule:
    """The linear warm-up, and after it the schedule over the rest of so many epochs."""
    fields = config.optimizer
    rise = round(fields.linear_warmup_epochs * epoch_steps)
    steps = max(1, epochs * epoch_steps - rise)
    if fields.schedule == "warm_restarts":
        schedule = warm_restarts(
            fields.learning_rate,
            steps,
            constant_steps=max(0, config.warmup_epochs * epoch_steps - rise),
            first_cycle_steps=fields.first_cycle_epochs * epoch_steps,
            least=fields.least_learning_rate,
        )
    elif fields.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(fields.learning_rate, steps)
    elif fields.schedule == "cosine_7_16":
        schedule = cosine_7_16(fields.learning_rate, steps)
    else:
        schedule = step_decay(fields.learning_rate, steps, fields.decay_at_percent, fields.decay_factor)
    return with_linear_warmup(schedule, fields.learning_rate, rise)


def virtual_schedule(config: ConfigDict, learning_rate: optax.Schedule) -> optax.Schedule:
    """Makes the learning-rate schedule of the virtual step.

    Args:
        config: the run's config.
        learning_rate: the optimiser's schedule.
    """
    fixed = config.optimizer.virtual_learning_rate
    return optax.constant_schedule(fixed) if fixed else learning_rate


def make_optimizer(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Makes the classifier's optimiser, which updates only the parameters that the config selects.

    Args:
        config: the run's config.
        learning_rate: step -> learning rate.

    Raises:
        UsageError: a pattern matches no parameter; raised when the optimiser is given the parameters.
    """
    fields = config.optimizer
    if fields.name == "adamw":
        parts = [optax.adamw(learning_rate, weight_decay=fields.weight_decay)]
    else:
        sgd = optax.sgd(learning_rate, momentum=fields.momentum, nesterov=fields.nesterov)
        own = optax.adam(learning_rate) if fields.name == "adam" else sgd
        parts = [optax.add_decayed_weights(fields.weight_decay), own]
    if fields.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(fields.clip_norm))
    moving, is_trained, factor = optax.chain(*parts), trainable_filter(fields.trainable), fields.slow_factor
    if is_trained is not None:
        moving = optax.multi_transform({True: moving, False: optax.set_to_zero()}, is_trained)
    is_slow = trainable_filter(fields.slow, "optimizer.slow")
    if is_slow is not None:  # the update is proportional to the learning rate, in its weight decay, too
        moving = optax.chain(moving, optax.masked(optax.scale(factor), is_slow))
    return moving


def trainable_filter(patterns: Sequence[str], field: str = "optimizer.trainable") -> VirtualFilter | None:
    """Makes the filter of parameters by name: params -> bools of the same structure; None without patterns.

    Args:
        patterns: `fnmatch` patterns of names such as `head/kernel`; `*` matches any characters, including
            slashes.
        field: the config field that they come from, for the error.

    Raises:
        UsageError: a pattern matches no parameter; raised by the returned function.
    """
    if not patterns:
        return None

    def is_chosen(params: PyTree) -> PyTree:
        names = [name for name, _ in named(params)]
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                modules = sorted({f"{name.partition('/')[0]}/*" for name in names})
                raise unknown_name(
                    f"a pattern in {field}", pattern, names if len(names) <= _LISTED else modules
                )
        chosen = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
        return jax.tree.unflatten(jax.tree.structure(params), chosen)

    return is_chosen
