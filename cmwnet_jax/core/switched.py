"""Steps that take one of two ways by the step's number, such as a meta step every k-th time."""

import dataclasses
from collections.abc import Callable

import jax

from cmwnet_jax.core.types import MetaState, Metrics, PyTree, StepFn
from cmwnet_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Switched:
    """A step that selects one of two steps by the step number.

    Called, it is a branch (`jax.lax.cond`), in a compiled program and inside of `jax.lax.scan` also. Both steps
    must then give metrics of the same names, shapes and dtypes. A caller who knows the step number may call one
    of the two instead, as the launcher does: on a CPU, XLA runs convolutions slower inside of a branch.

    Attributes:
        chosen: step number, on the host or traced -> whether to take `if_true`.
        if_true: the first step.
        if_false: the second step.
    """

    chosen: Callable[[int | jax.Array], bool | jax.Array]
    if_true: StepFn
    if_false: StepFn

    def __call__(self, state: MetaState, *batches: PyTree) -> tuple[MetaState, Metrics]:
        """Takes the step that the state's number selects."""
        return jax.lax.cond(self.chosen(state.step), self.if_true, self.if_false, state, *batches)


def every(steps: int, if_true: StepFn, if_false: StepFn) -> StepFn:
    """Takes one step at every k-th step, and another step in between.

    Args:
        steps: k.
        if_true: the step taken at steps 0, k, 2k, ...
        if_false: the step taken at all others.

    Returns:
        A `Switched`; `if_true` itself if k is 1.

    Raises:
        UsageError: k is no whole number of at least 1.
    """
    if not (float(steps).is_integer() and steps >= 1):
        raise UsageError(
            f"meta_every is {steps!r}, expected a whole number of at least 1: 1 takes a meta step at every step"
        )
    return if_true if steps == 1 else Switched(lambda number: number % steps == 0, if_true, if_false)
