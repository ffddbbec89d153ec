"""Compiles a step with its input: one program, two that the host chooses between, or several passes."""

from collections.abc import Callable, Mapping

import jax

from cmwnet_jax.core.types import MetaState, Metrics, PyTree
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.methods.steps import PER_EXAMPLE, BatchStep, InPasses, Step, Switched
from cmwnet_jax.train import parallel

_AUGMENT = 0x61756700  # separates the augmentation's key from the steps' keys

Fetched = tuple[Mapping[str, Raw], PyTree]
"""One device's raw batches by stream, and how their inputs are standardised."""
Prepare = Callable[[Fetched, jax.Array], PyTree]
"""(raw batches and scaling, key of their augmentation) -> the step's batch."""
Fetch = Callable[..., Fetched]
"""(*arguments) -> raw batches and scaling."""
Program = Callable[..., tuple[MetaState, Metrics]]
"""(replicated state, *Fetch's arguments) -> (state, metrics)."""


def with_input(step: BatchStep, prepare: Prepare, fetch: Fetch) -> Program:
    """Makes a step on raw batches that gathers per-example metrics on every device; not compiled.

    Args:
        step: any step except `InPasses`.
        prepare: turns raw batches into the step's batch.
        fetch: provides the raw batches.
    """

    def run(state, *arguments):
        state, metrics = step(state, _batch(state, prepare, fetch(*arguments)))
        return state, _on_every_device(metrics)

    return run


def by_number(step: Step, prepare: Prepare, fetch: Fetch) -> Callable[[int], Program]:
    """Compiles a step and returns a function: step number -> the program to call.

    With a `Switched` step the host selects the program, because programs without a branch are faster: on CPU,
    XLA runs convolutions 2.6 times slower inside a conditional than outside.

    Args:
        step: any step.
        prepare: turns raw batches into the step's batch.
        fetch: provides the raw batches.
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


def _batch(state: MetaState, prepare: Prepare, fetched: Fetched) -> PyTree:
    return prepare(fetched, jax.random.fold_in(jax.random.fold_in(state.rng, _AUGMENT), state.step))


def _on_every_device(metrics: Metrics) -> Metrics:
    return metrics | parallel.gather({name: metrics[name] for name in PER_EXAMPLE if name in metrics})
