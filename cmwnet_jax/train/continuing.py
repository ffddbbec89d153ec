"""Checks whether a run can continue for more epochs: the steps done must not depend on the run's length."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import percent_of_steps, value_of
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train.optimizers import learning_rate_schedule


def check_longer(config: ConfigDict, folder: RunFolder, epoch_steps: int) -> None:
    """Checks a run that continues with another number of epochs; other runs pass.

    Args:
        config: the config to continue with.
        folder: the run's folder, with its previous config and checkpoints.
        epoch_steps: steps per epoch.

    Raises:
        UsageError: with the new number of epochs, the steps already done would have been different.
    """
    before, steps_done = folder.config_before(), folder.newest_checkpoint
    if before is None or before.num_epochs == config.num_epochs or not steps_done:
        return
    reason = _other_share(config, before, epoch_steps) or _other_rate(config, before, epoch_steps, steps_done)
    if reason:
        raise UsageError(
            f"num_epochs was {before.num_epochs} and is {config.num_epochs}, with which the run in "
            f"{str(folder.path)!r} cannot go on, since {reason}: choose another folder, and set model.init to "
            f"this one, finished, to start from its classifier"
        )


def _other_share(config: ConfigDict, before: ConfigDict, epoch_steps: int) -> str:
    """Describes a percentage field of the method that now means another step; empty if there is none."""
    for name, field in METHODS[config.method].fields.items():
        percent = value_of(config, name)
        if field.check is not percent_of_steps or percent == 100:  # 100 means never, for any length
            continue
        then, now = (round(c.num_epochs * epoch_steps * percent / 100) for c in (before, config))
        if then != now:
            return f"{name} is {percent}, which was step {then} and would be {now}"
    return ""


def _other_rate(config: ConfigDict, before: ConfigDict, epoch_steps: int, steps_done: int) -> str:
    """Describes the first step done with a learning rate other than the config's; empty if there is none."""
    steps = jnp.arange(steps_done)
    then, now = (np.asarray(jax.vmap(learning_rate_schedule(c, epoch_steps))(steps)) for c in (before, config))
    (other,) = np.nonzero(then != now)
    if not len(other):
        return ""
    first = int(other[0])
    return f"step {first} was taken at the learning rate {then[first]:g} and would be at {now[first]:g}"
