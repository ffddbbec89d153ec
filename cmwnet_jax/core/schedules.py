"""Learning-rate schedules."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax


def step_decay(
    learning_rate: float, num_steps: int, decay_at_percent: Sequence[float], decay_factor: float
) -> optax.Schedule:
    """Multiplies the learning rate by a factor at given fractions of the run.

    Args:
        learning_rate: value at step 0.
        num_steps: steps of the whole run.
        decay_at_percent: when to decay, in per cent of `num_steps`.
        decay_factor: the factor.

    Returns:
        step -> learning rate.
    """
    boundaries = {}
    for percent in decay_at_percent:  # in a short run, two decays may fall on one step
        step = round(num_steps * percent / 100)
        boundaries[step] = boundaries.get(step, 1.0) * decay_factor
    return optax.piecewise_constant_schedule(learning_rate, boundaries)


def warm_restarts(
    learning_rate: float, num_steps: int, *, constant_steps: int, first_cycle_steps: int, least: float
) -> optax.Schedule:
    """A constant phase, then cosine decays from the learning rate, each twice as long as the one before.

    SGDR (Loshchilov and Hutter 2017) with T_mult = 2, as in Sec. 4.3, but by step instead of by epoch.

    Args:
        learning_rate: value at step 0 and at each restart.
        num_steps: steps of the whole run.
        constant_steps: steps before the first cosine.
        first_cycle_steps: steps of the first cosine.
        least: final value of each cosine.

    Returns:
        step -> learning rate.
    """
    pieces, boundaries = [optax.constant_schedule(learning_rate)], []
    start, length = constant_steps, first_cycle_steps
    while start < num_steps:
        pieces.append(optax.cosine_decay_schedule(learning_rate, length, alpha=least / learning_rate))
        boundaries.append(start)
        start, length = start + length, 2 * length
    return optax.join_schedules(pieces, boundaries)


def cosine_7_16(learning_rate: float, num_steps: int) -> optax.Schedule:
    """FixMatch's cosine: learning_rate * cos(7 pi t / (16 T)), which ends at 0.2 of it (Sohn et al. 2020).

    Args:
        learning_rate: value at step 0.
        num_steps: T, the steps of the whole run.

    Returns:
        step -> learning rate.
    """
    return lambda step: learning_rate * jnp.cos(7 * jnp.pi * step / (16 * num_steps))


def with_linear_warmup(schedule: optax.Schedule, learning_rate: float, num_steps: int) -> optax.Schedule:
    """Puts a linear rise before a schedule (Goyal et al. 2017).

    The rate rises as from 0 at step -1, so that no step is without effect: at step s it is
    `learning_rate * (s + 1) / (num_steps + 1)`.

    Args:
        schedule: its step 0 is the step `num_steps` of the result.
        learning_rate: the schedule's first value.
        num_steps: steps of the rise; 0 for none.

    Returns:
        step -> learning rate.

    Example:
        >>> schedule = with_linear_warmup(optax.constant_schedule(0.4), 0.4, 3)
        >>> [round(float(schedule(step)), 6) for step in range(5)]
        [0.1, 0.2, 0.3, 0.4, 0.4]
    """
    if not num_steps:
        return schedule
    rise = optax.linear_schedule(learning_rate / (num_steps + 1), learning_rate, num_steps)
    return optax.join_schedules([rise, schedule], [num_steps])
