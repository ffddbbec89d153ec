"""What a run computes: an epoch's meta set, its chunks of steps, and what the classifier makes of a split."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import batches
from cmwnet_jax.data.meta_set import MetaSet
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Recipe
from cmwnet_jax.train.build_data import Data, build_input, build_meta_set, needs_losses
from cmwnet_jax.train.epoch import Epoch, saved_meta_set, saved_reports
from cmwnet_jax.train.evaluate import Measured, make_measure
from cmwnet_jax.types import MetaState


class Trainer:
    """Steps and measures on all devices; states are replicated, and given away to the steps."""

    def __init__(self, config: ConfigDict, data: Data, recipe: Recipe, first_step: int):
        """Opens the input; nothing is compiled before it is first needed.

        Args:
            config: the run's.
            data: the run's.
            recipe: the run's.
            first_step: number of the first step in the run.
        """
        self._config, self._data, self._recipe = config, data, recipe
        self._inputs = build_input(config, data, first_step, recipe.one_step_a_call)
        self._run_warmup, self._run_main = (
            self._inputs.make_run_steps(step) for step in (recipe.warmup, recipe.main)
        )
        self._measure_train, self._measure_test = (
            self._inputs.map_split(split, make_measure(recipe.model)) for split in ("train", "test")
        )
        one = MetaSet(np.zeros(1, np.int32), np.zeros(1, np.int32))
        self._no_meta = self._inputs.load_meta("train", one, 0)  # for steps that do not look at it

    def start_epoch(self, number: int, state: MetaState, saved: Mapping[str, np.ndarray]) -> Epoch:
        """An epoch from its start, or from where a checkpoint has it.

        Args:
            number: of the epoch, from 0.
            state: before its next step.
            saved: `Epoch.arrays` of the checkpoint; empty for an epoch's start.
        """
        rows = self._recipe.order.epoch(number)
        chosen, meta, meta_rows = None, self._no_meta, np.zeros_like(rows)
        if self._recipe.learns_weights(number):
            split, chosen = self._meta_set(number, state, saved)
            meta = self._inputs.load_meta(split, chosen, number)
            meta_rows = self._meta_rows(number, chosen, len(rows))
        return Epoch(
            number=number,
            rows=rows,
            is_meta=self._recipe.meta_steps(number),
            meta_set=chosen,
            meta=meta,
            meta_rows=meta_rows,
            reported=saved_reports(saved),
        )

    def run_chunk(self, state: MetaState, epoch: Epoch) -> tuple[MetaState, Epoch]:
        """(state, epoch) after the epoch's next chunk of steps.

        Args:
            state: before them.
            epoch: before them.
        """
        run = self._run_warmup if epoch.number < self._config.warmup_epochs else self._run_main
        chunk = epoch.chunk(self._config.chunk_steps)
        state, reported = run(state, epoch.rows[chunk], epoch.meta, epoch.meta_rows[chunk])
        reported = parallel.unreplicate(reported)
        return state, epoch.extended({name: np.asarray(values) for name, values in reported.items()})

    def test(self, state: MetaState) -> Measured:
        """What the classifier makes of the test split.

        Args:
            state: the classifier's.
        """
        return Measured(*self._measure_test(state.params, state.model_state))

    def test_teacher(self, state: MetaState) -> Measured | None:
        """What the teacher of soft labels makes of the test split; None where there is none.

        Args:
            state: the teacher's.
        """
        if not self._recipe.kind.has_teacher:
            return None
        return Measured(*self._measure_test(state.teacher.params, state.teacher.model_state))

    def _meta_set(self, number: int, state: MetaState, saved: Mapping[str, np.ndarray]) -> tuple[str, MetaSet]:
        """(split, meta set), the checkpoint's own where it has one: the choice was the epoch's start's."""
        chosen = saved_meta_set(saved)
        if chosen is not None:
            return "held_out" if self._config.meta_set.kind == "held_out" else "train", chosen
        measured = None
        if needs_losses(self._config):
            judge = state.teacher if self._recipe.kind.has_teacher else state  # Q20
            measured = Measured(*self._measure_train(judge.params, judge.model_state))
        return build_meta_set(self._config, self._data, number, measured)

    def _meta_rows(self, number: int, chosen: MetaSet, steps: int) -> np.ndarray:
        """Meta batches of a size that the devices can share evenly."""
        size = min(self._config.meta_set.batch_size, len(chosen.rows))
        size = parallel.round_down("meta_set.batch_size", size, self._config.micro_batches)
        return batches.meta_rows(self._config.seed, number, len(chosen.rows), steps, size)
