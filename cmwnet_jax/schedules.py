"""Learning rates as functions of the step."""

from collections.abc import Sequence

import optax


def step_decay(
    learning_rate: float, num_steps: int, decay_at_percent: Sequence[float], decay_factor: float
) -> optax.Schedule:
    """The learning rate is multiplied by a factor at given shares of the run.

    Args:
        learning_rate: at step 0.
        num_steps: of the whole run.
        decay_at_percent: shares of `num_steps`, in per cent.
        decay_factor: the factor.

    Returns:
        step -> learning rate.
    """
    boundaries = {}
    for percent in decay_at_percent:  # two shares of a short run may fall on one step
        step = round(num_steps * percent / 100)
        boundaries[step] = boundaries.get(step, 1.0) * decay_factor
    return optax.piecewise_constant_schedule(learning_rate, boundaries)
