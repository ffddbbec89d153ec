"""How a step becomes compiled programs: one with its input, two to choose from, or a row of passes."""

import dataclasses
from collections.abc import Callable

import jax

from cmwnet_jax.data.batches import Raw
from cmwnet_jax.train import parallel
from cmwnet_jax.types import MetaState, Metrics, PyTree, StepFn

_AUGMENT = 0x61756700  # stream of the base key, apart from the steps' own

Prepare = Callable[[Raw, jax.Array | None], dict[str, jax.Array]]
"""(raw batch, key of its augmentation) -> the step's batch; without a key, nothing random happens to it."""
Fetch = Callable[..., tuple[Raw, Raw]]
"""(*arguments) -> raw batch and meta batch, of one device."""
Program = Callable[..., tuple[MetaState, Metrics]]
"""(replicated state, *Fetch's arguments) -> (state, metrics)."""


@dataclasses.dataclass(frozen=True)
class Switched:
    """One step or another, by the number of the step; itself a step.

    Attributes:
        chosen: the step's number, on the host or traced -> whether it is the first.
        if_true: the one. In passes, it cannot be part of a program, nor can the choice.
        if_false: the other.
    """

    chosen: Callable[[int | jax.Array], bool | jax.Array]
    if_true: "StepFn | InPasses"
    if_false: StepFn

    def __call__(self, state: MetaState, batch: PyTree, meta_batch: PyTree) -> tuple[MetaState, Metrics]:
        """Both in one program."""
        return jax.lax.cond(self.chosen(state.step), self.if_true, self.if_false, state, batch, meta_batch)


@dataclasses.dataclass(frozen=True)
class InPasses:
    """A step that calls pmapped programs of its own, as `make_low_memory_step`'s does.

    Attributes:
        step: (state, batch, meta_batch) -> (state, metrics), all with leading axis D.
    """

    step: StepFn


def each(wrapper: Callable[[StepFn], StepFn], step: StepFn) -> StepFn:
    """The wrapped step; of a `Switched`, both steps are wrapped, so that the choice stays outermost.

    Args:
        wrapper: step -> step.
        step: any but one in passes.
    """
    if isinstance(step, Switched):
        return Switched(step.chosen, wrapper(step.if_true), wrapper(step.if_false))
    return wrapper(step)


def with_input(step: StepFn, prepare: Prepare, fetch: Fetch) -> Program:
    """The step from raw batches, with each example's numbers on every device; not compiled.

    Args:
        step: any but one in passes.
        prepare: raw batches to the step's.
        fetch: where raw batches come from.
    """

    def run(state, *arguments):
        state, metrics = step(state, *_batches(state, prepare, fetch(*arguments)))
        return state, _on_every_device(metrics)

    return run


def by_number(step: StepFn | InPasses, prepare: Prepare, fetch: Fetch) -> Callable[[int], Program]:
    """Step number -> the program to call. Of two steps the host chooses: programs without a branch are faster.

    On CPU, XLA runs convolutions inside a conditional 2.6 times slower than outside of one.

    Args:
        step: any.
        prepare: raw batches to the step's.
        fetch: where raw batches come from.
    """
    if isinstance(step, Switched):
        if_true, if_false = (_compiled(one, prepare, fetch) for one in (step.if_true, step.if_false))
        return lambda number: if_true if step.chosen(number) else if_false
    program = _compiled(step, prepare, fetch)
    return lambda number: program


def _compiled(step: StepFn | InPasses, prepare: Prepare, fetch: Fetch) -> Program:
    if not isinstance(step, InPasses):
        return parallel.pmap(with_input(step, prepare, fetch), donate_argnums=(0,))
    batches = parallel.pmap(lambda state, *arguments: _batches(state, prepare, fetch(*arguments)))
    on_every_device = parallel.pmap(_on_every_device)

    def run(state, *arguments):
        state, metrics = step.step(state, *batches(state, *arguments))
        return state, on_every_device(metrics)

    return run


def _batches(state: MetaState, prepare: Prepare, raw: tuple[Raw, Raw]) -> tuple[PyTree, PyTree]:
    key = jax.random.fold_in(jax.random.fold_in(state.rng, _AUGMENT), state.step)
    key, meta_key = jax.random.split(key)
    return prepare(raw[0], key), prepare(raw[1], meta_key)


def _on_every_device(metrics: Metrics) -> Metrics:
    return metrics | parallel.gather({name: metrics[name] for name in ("losses", "weights")})
