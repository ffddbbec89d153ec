"""A run's computations on the devices: an epoch's plan, its chunks of steps, and evaluation on a split."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.types import MetaState, PyTree
from cmwnet_jax.data.batches import BatchOrder, Selection
from cmwnet_jax.data.load import Data
from cmwnet_jax.methods.base import EpochStart, Variables
from cmwnet_jax.methods.measure import BesideGiven, beside_given
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Recipe, batch_order
from cmwnet_jax.train.epoch import (
    Epoch,
    check_selections,
    saved_history,
    saved_margins,
    saved_reports,
    saved_selection,
)
from cmwnet_jax.train.inputs import open_input


class Trainer:
    """Trains and evaluates on all devices. States are replicated, and steps donate their buffers."""

    def __init__(self, config: ConfigDict, data: Data, recipe: Recipe):
        """Opens the input; programs are compiled at their first use.

        Args:
            config: the run's config.
            data: the run's data.
            recipe: the run's recipe.
        """
        self._config, self._recipe, self._method = config, recipe, recipe.method
        self._num_examples = len(data.biased.ids)
        self._inputs = open_input(
            data, recipe.method.streams, recipe.orders, config.seed, recipe.one_step_a_call
        )
        self._planned = {
            name: len(data.splits[stream.split])
            for name, stream in recipe.method.streams.items()
            if stream.planned
        }
        inputs, measure = self._inputs, recipe.method.measure
        # Not cached on the class, which would keep every run's data on the devices.
        self._map = functools.cache(lambda split: inputs.map_split(split, measure))
        self._run_steps = {
            phase.first_epoch: self._inputs.make_run_steps(phase) for phase in recipe.method.phases
        }

    def start_epoch(
        self, number: int, state: MetaState, saved: Mapping[str, np.ndarray]
    ) -> tuple[MetaState, Epoch]:
        """Plans an epoch, or resumes it from a checkpoint; returns the new (state, epoch).

        Args:
            number: the epoch's number, from 0.
            state: the state before its next step, replicated.
            saved: `Epoch.arrays` of the checkpoint or of the epoch before; empty at the start of the run.
        """
        phase, method = self._method.phase(number), self._method
        planned = [name for name in phase.streams if method.streams[name].planned]
        history, reported = saved_history(saved, self._num_examples), saved_reports(saved)
        if reported:  # the plan was made at the epoch's start; the state already contains its changes
            selections = {name: saved_selection(name, saved) for name in planned}
        else:
            start = EpochStart(
                number, state, self.measure, history, parallel.unreplicate, parallel.replicate, self._map_once
            )
            plan = method.plan_epoch(start)
            check_selections(plan.selections, self._planned, planned, number)
            selections, state = dict(plan.selections), state.replace(**plan.state)
        steps = self._recipe.epoch_steps
        numbers = np.arange(number * steps, (number + 1) * steps)
        return state, Epoch(
            number=number,
            main_stream=method.main_stream,
            rows={name: self._order(name, selections).epoch(number) for name in phase.streams},
            is_meta=phase.learns(numbers),
            selections=selections,
            loaded={name: self._inputs.load(name, selections[name], number) for name in planned},
            reported=reported,
            loss_history=history,
            margin_history=saved_margins(saved, self._num_examples),
        )

    def run_chunk(self, state: MetaState, epoch: Epoch) -> tuple[MetaState, Epoch]:
        """Runs the epoch's next chunk of steps; returns the new (state, epoch).

        Args:
            state: the state before these steps, replicated; its buffers are donated.
            epoch: the epoch before these steps.
        """
        chunk = epoch.chunk(self._config.chunk_steps)
        rows = {name: rows[chunk] for name, rows in epoch.rows.items()}
        run_steps = self._run_steps[self._method.phase(epoch.number).first_epoch]
        state, reported = run_steps(state, rows, epoch.loaded)
        reported = parallel.unreplicate(reported)
        return state, epoch.extended({name: np.asarray(values) for name, values in reported.items()})

    def test(self, state: MetaState, split: str = "test") -> dict[str, NamedTuple]:
        """Evaluates each of the method's classifiers on a split; returns the results by name.

        Args:
            state: the replicated state.
            split: a name in `Data.splits`.
        """
        return {name: self.measure(split, held) for name, held in self._method.classifiers(state).items()}

    def measure(self, split: str, variables: Variables) -> NamedTuple:
        """Applies the method's `Measure` to every example of a split, in order; the result is on the host.

        Args:
            split: a name in `Data.splits`.
            variables: the replicated variables of a classifier.
        """
        return self._map(split)(variables)

    def predict(self, state: MetaState, whole: bool) -> tuple[BesideGiven, np.ndarray | None]:
        """Evaluates the method's own classifier on every training example; costs one pass.

        Args:
            state: the replicated state.
            whole: whether to return the class probabilities.

        Returns:
            What the class probabilities say of the given labels, [N] each, and with `whole` the probabilities,
            [N, C] float16.
        """

        def compared(variables, batch):
            probabilities = self._method.predict(variables, batch)
            found = beside_given(probabilities, batch["label"])
            return found, probabilities.astype(jnp.float16) if whole else None

        (classifier, *_) = self._method.classifiers(state).values()
        return self._inputs.map_split("train", compared)(classifier)

    def _map_once(self, split: str, function: Callable, variables: Variables) -> PyTree:
        return self._inputs.map_split(split, function)(variables)

    def _order(self, name: str, selections: Mapping[str, Selection]) -> BatchOrder:
        """A stream's batch order: of its whole split or, if it is planned, of the examples selected."""
        if name not in selections:
            return self._recipe.orders[name]
        stream, examples = self._method.streams[name], len(selections[name].rows)
        return batch_order(self._config, name, stream, examples, self._recipe.epoch_steps)
