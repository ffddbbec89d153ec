"""Checkpoints with Orbax: the state, the epoch under way, the weight net as an item that restores alone."""

import contextlib
import errno
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cmwnet_jax import transfer
from cmwnet_jax.core.types import MetaState, PyTree
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import local_folder
from cmwnet_jax.train import parallel
from cmwnet_jax.transfer import array_facts, orbax_folder

_STATE, _EPOCH = "state", "epoch"
_CONTENTS = "contents"  # the item that says what these two must hold: shapes, dtypes, checksums
_SPARE_BYTES = 1 << 20  # room for a checkpoint's many small files


class Restored(NamedTuple):
    """A checkpoint's content.

    Attributes:
        steps_done: the checkpoint's number; 0 where there is none.
        state: after them.
        epoch: `Epoch.arrays` of the epoch under way; empty at an epoch's edge.
    """

    steps_done: int
    state: MetaState
    epoch: dict[str, np.ndarray]


class Checkpoints:
    """The newest few states of a run, numbered by how many steps are done. A context manager.

    A checkpoint appears under its number once it is whole and on disk; until then it has another name
    and is no checkpoint. Saved is the whole state and, inside an epoch, what the epoch was given at its
    start and has reported since. What else the future of a run depends on (the order of the examples,
    of the meta set, augmentation) is a function of the state, the seed and the number of steps.
    """

    def __init__(self, folder: Path, keep: int):
        """Opens or makes the folder, and removes what a killed process has left half-written.

        Args:
            folder: of the checkpoints.
            keep: how many of the newest to keep.

        Raises:
            UsageError: a file stands where the folder or a checkpoint belongs, or the path cannot be used.
        """
        self._folder = local_folder("the folder for checkpoints", folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        for place in self._folder.iterdir():
            if place.name.isdecimal() and not place.is_dir():
                raise UsageError(f"{str(place)!r} is a file where a checkpoint belongs: move it away")
        self._saving = 0  # the number of the checkpoint that is being written
        self._ends = contextlib.ExitStack()
        plain = self._ends.enter_context(orbax_folder.plainly_named(self._folder))
        # Each process of a run has a folder of its own, so that none waits for another here.
        process = parallel.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
        )
        self._manager = ocp.CheckpointManager(
            plain,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,
                cleanup_tmp_directories=True,
                multiprocessing_options=alone,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_names=(_STATE, _EPOCH, transfer.ITEM, _CONTENTS),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def save(
        self,
        steps_done: int,
        state: MetaState,
        weight_net: transfer.SavedWeightNet | None = None,
        epoch: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Starts writing an unreplicated state; the next save or `close` waits for it.

        Only a run's first process writes: Orbax's threads wait for each other by notes in a store that all
        processes share, and would take another process's note for their own.

        Args:
            steps_done: the checkpoint's number.
            state: after that many steps.
            weight_net: the state's, where it has learned something.
            epoch: `Epoch.arrays` of the epoch under way; None or empty at an epoch's edge.

        Raises:
            OSError: the disk has no room for it (ENOSPC); the checkpoints before are as they were.
        """
        if not parallel.is_first():
            return
        self._manager.wait_until_finished()  # the room that is left is known only then
        parts = {_STATE: _to_arrays(state), _EPOCH: dict(epoch or {})}
        _check_room(self._folder, parts)
        items = {name: ocp.args.StandardSave(part) for name, part in parts.items() if part}
        items[_CONTENTS] = ocp.args.JsonSave({name: array_facts.facts(part) for name, part in parts.items()})
        if weight_net is not None:
            items[transfer.ITEM] = transfer.save_args(weight_net)
        self._saving = steps_done
        self._manager.save(steps_done, args=ocp.args.Composite(**items))

    def _seal(self) -> None:
        """Adds checksums to each item of the checkpoint being written, before it appears under its number."""
        (partial,) = self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        for item in partial.iterdir():
            if item.is_dir():
                if item.name in (_STATE, _EPOCH, transfer.ITEM):
                    orbax_folder.check_has_arrays(item)
                orbax_folder.seal(item, steps_done=self._saving)

    def restore(self, template: MetaState) -> Restored:
        """The newest checkpoint that is whole; 0 steps, the template and no epoch where there is none.

        A damaged checkpoint is passed over with a warning, and moved out of the way of its successor.

        Args:
            template: a state of the same structure, shapes and dtypes.

        Raises:
            UsageError: the checkpoint is of another architecture, or every one is damaged.
        """
        reasons = {}
        for steps_done in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._read(steps_done, template)
            except UsageError:
                raise
            except Exception as error:  # Orbax's and TensorStore's errors have nothing else in common
                reasons[steps_done] = first_line(error)
                continue
            if reasons:
                self._set_aside(reasons, steps_done)
            return restored
        if reasons:
            raise UsageError(
                f"workdir has checkpoints in {str(self._folder)!r}, all of them damaged ({_listed(reasons)}): "
                f"bring back a copy of one, or remove the workdir to start over"
            )
        return Restored(0, template, {})

    def wait(self) -> None:
        """Waits until everything is written, and raises what went wrong with it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()
            self._ends.close()

    def _read(self, steps_done: int, template: MetaState) -> Restored:
        """One checkpoint; any error but a UsageError means that it is damaged."""
        for name in (_CONTENTS, _STATE, _EPOCH):
            item = self._folder / str(steps_done) / name
            broken = orbax_folder.is_sealed(item) and orbax_folder.broken_seal(item, steps_done=steps_done)
            if broken:
                raise ValueError(broken)
        args = ocp.args.Composite(**{_CONTENTS: ocp.args.JsonRestore()})
        contents = self._manager.restore(steps_done, args=args)[_CONTENTS]
        expected = jax.eval_shape(_arrays, template)
        different = array_facts.mismatches(contents[_STATE], expected)
        if different:
            raise UsageError(
                f"workdir has a checkpoint in {str(self._folder / str(steps_done))!r} of another architecture "
                f"than the config's ({different}): set the config's model back, or choose another workdir"
            )
        read = self._read_part(steps_done, _STATE, contents, expected)
        memory = read.pop("memory")  # stays on the host: it may fit no single device
        arrays = jax.tree.map(jnp.asarray, read) | {"memory": memory}
        rng = jax.random.wrap_key_data(arrays.pop("rng"), impl=jax.random.key_impl(template.rng))
        as_saved = {
            name: jax.ShapeDtypeStruct(fact["shape"], jnp.dtype(fact["dtype"]))
            for name, fact in contents[_EPOCH].items()
        }
        epoch = self._read_part(steps_done, _EPOCH, contents, as_saved) if as_saved else {}
        return Restored(steps_done, template.replace(**arrays, rng=rng), epoch)

    def _read_part(self, steps_done: int, name: str, contents: dict, expected: PyTree) -> PyTree:
        """One item's arrays, on the host, of the shapes and dtypes that are expected."""
        blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(blank)})
        arrays = self._manager.restore(steps_done, args=args)[name]
        damaged = array_facts.damaged(contents[name], arrays)
        if damaged:
            raise ValueError(f"other values than were saved in {', '.join(damaged[:3])}")
        return arrays

    def _set_aside(self, reasons: dict[int, str], restored: int) -> None:
        """Moves damaged checkpoints beside the folder: training on will write their numbers again."""
        beside = local_folder(
            "the place for damaged checkpoints", self._folder.with_name("damaged_checkpoints")
        )
        beside.mkdir(exist_ok=True)
        for steps_done in reasons:
            places = (beside / f"{steps_done}{suffix}" for suffix in ("", *(f"_{i}" for i in range(1, 1000))))
            os.rename(self._folder / str(steps_done), next(place for place in places if not place.exists()))
        self._manager.reload()
        warnings.warn(
            f"damaged checkpoints in {self._folder} were moved to {beside} ({_listed(reasons)}): going on from "
            f"the one before, {restored}",
            stacklevel=3,
        )


def _listed(reasons: dict[int, str]) -> str:
    return "; ".join(f"{steps_done}: {reason}" for steps_done, reason in reasons.items())


def _arrays(state: MetaState) -> dict:
    """The state by its fields' names, without extended dtypes."""
    arrays = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {**arrays, "rng": jax.random.key_data(state.rng)}


def _to_arrays(state: MetaState) -> dict:
    return array_facts.to_host(_arrays(state))


def _check_room(folder: Path, arrays: PyTree) -> None:
    """Fails before anything is written, with one plain error instead of one for each writing thread."""
    needed = sum(array.nbytes for array in jax.tree.leaves(arrays)) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"a checkpoint needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free", str(folder)
        )
