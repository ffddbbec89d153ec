"""Compiles a step with its input: one program, two that the host chooses between, or several passes."""

from collections.abc import Callable, Mapping

import jax

from cmwnet_jax.core.types import MetaState, Metrics, PyTree
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.methods.steps import BatchStep, InPasses, Step, Switched
from cmwnet_jax.train import parallel

_AUGMENT = 0x61756700  # stream of the base key, apart from the steps' own

Prepare = Callable[[Mapping[str, Raw], jax.Array], PyTree]
"""(raw batches by stream, key of their augmentation) -> the step's batch."""
Fetch = Callable[..., Mapping[str, Raw]]
"""(*arguments) -> raw batches by stream, of one device."""
Program = Callable[..., tuple[MetaState, Metrics]]
"""(replicated state, *Fetch's arguments) -> (state, metrics)."""


def with_input(step: BatchStep, prepare: Prepare, fetch: Fetch) -> Program:
    """The step from raw batches, with each example's numbers on every device; not compiled.

    Args:
        step: any but one in passes.
        prepare: raw batches to the step's.
        fetch: where raw batches come from.
    """

    def run(state, *arguments):
        state, metrics = step(state, _batch(state, prepare, fetch(*arguments)))
        return state, _on_every_device(metrics)

    return run


def by_number(step: Step, prepare: Prepare, fetch: Fetch) -> Callable[[int], Program]:
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


def _compiled(step: BatchStep | InPasses, prepare: Prepare, fetch: Fetch) -> Program:
    if not isinstance(step, InPasses):
        return parallel.pmap(with_input(step, prepare, fetch), donate_argnums=(0,))
    batch_of = parallel.pmap(lambda state, *arguments: _batch(state, prepare, fetch(*arguments)))
    on_every_device = parallel.pmap(_on_every_device)

    def run(state, *arguments):
        state, metrics = step.step(state, batch_of(state, *arguments))
        return state, on_every_device(metrics)

    return run


def _batch(state: MetaState, prepare: Prepare, raws: Mapping[str, Raw]) -> PyTree:
    return prepare(raws, jax.random.fold_in(jax.random.fold_in(state.rng, _AUGMENT), state.step))


def _on_every_device(metrics: Metrics) -> Metrics:
    return metrics | parallel.gather({name: metrics[name] for name in ("losses", "weights")})
