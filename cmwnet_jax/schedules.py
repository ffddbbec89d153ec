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
    boundaries = {round(num_steps * percent / 100): decay_factor for percent in decay_at_percent}
    return optax.piecewise_constant_schedule(learning_rate, boundaries)
