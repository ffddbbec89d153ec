"""Checkpoints with Orbax: the state, the running epoch, and the weight net as a separate item."""

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
_CONTENTS = "contents"  # item with the shapes, dtypes and checksums of these two
_SPARE_BYTES = 1 << 20  # space for a checkpoint's many small files


class Restored(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        steps_done: steps of the run so far, which is the checkpoint's number; 0 if there is no checkpoint.
        state: the state after these steps.
        epoch: `Epoch.arrays` of the running or finished epoch; empty if there is no checkpoint, or in one of an
            older version that was written between epochs.
    """

    steps_done: int
    state: MetaState
    epoch: dict[str, np.ndarray]


class Checkpoints:
    """The newest checkpoints of a run, numbered by steps done. A context manager.

    A checkpoint gets its number only once it is completely on disk; until then it has a temporary name and is
    ignored. It contains the whole state, the loss history and, inside an epoch, the epoch's plan and the
    metrics reported so far. Everything else that determines the rest of a run (the order of the examples and
    of the meta set, the augmentation) is a function of the state, the seed and the number of steps.
    """

    def __init__(self, folder: Path, keep: int):
        """Opens or creates the folder, and removes partial checkpoints of a killed process.

        Args:
            folder: the folder of the checkpoints.
            keep: the number of newest checkpoints to keep.

        Raises:
            UsageError: a file is in the place of the folder or of a checkpoint, or the path cannot be used.
        """
        self._folder = local_folder("the folder for checkpoints", folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        for place in self._folder.iterdir():
            if place.name.isdecimal() and not place.is_dir():
                raise UsageError(f"{str(place)!r} is a file where a checkpoint belongs: move it away")
        self._saving = 0  # number of the checkpoint being written
        self._ends = contextlib.ExitStack()
        plain = self._ends.enter_context(orbax_folder.plainly_named(self._folder))
        # Each process of a run has its own folder, so that no process waits for another here.
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
        """Starts writing a checkpoint in the background; the next `save`, `wait` or `close` waits for it.

        Only a run's first process writes. Orbax's threads synchronise through keys in a store that all
        processes share, and would confuse another process's keys with their own.

        Args:
            steps_done: steps of the run so far; the checkpoint's number.
            state: the unreplicated state after these steps.
            weight_net: the weight net of the state; None if there is none to save.
            epoch: `Epoch.arrays` of the running or finished epoch; None or empty for none.

        Raises:
            OSError: the disk has no space for it (ENOSPC); earlier checkpoints are unchanged.
        """
        if not parallel.is_first():
            return
        self._manager.wait_until_finished()  # only then is the free space known
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
        """Reads the newest undamaged checkpoint.

        Damaged checkpoints are skipped with a warning and moved away, since training will write their numbers
        again.

        Args:
            template: a state of the same structure, shapes and dtypes.

        Returns:
            The checkpoint's contents; 0 steps, `template` and an empty epoch if there is no checkpoint.

        Raises:
            UsageError: the checkpoint has another architecture, or all checkpoints are damaged.
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
        """Waits until everything is written; raises the error of a failed write."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as in `wait`, then stops Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()
            self._ends.close()

    def _read(self, steps_done: int, template: MetaState) -> Restored:
        """Reads one checkpoint; any error other than a UsageError means that it is damaged."""
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
        memory = read.pop("memory")  # stays on the host: it may be too large for a single device
        arrays = jax.tree.map(jnp.asarray, read) | {"memory": memory}
        rng = jax.random.wrap_key_data(arrays.pop("rng"), impl=jax.random.key_impl(template.rng))
        as_saved = {
            name: jax.ShapeDtypeStruct(fact["shape"], jnp.dtype(fact["dtype"]))
            for name, fact in contents[_EPOCH].items()
        }
        epoch = self._read_part(steps_done, _EPOCH, contents, as_saved) if as_saved else {}
        return Restored(steps_done, template.replace(**arrays, rng=rng), epoch)

    def _read_part(self, steps_done: int, name: str, contents: dict, expected: PyTree) -> PyTree:
        """Reads one item's arrays to the host, with the expected shapes and dtypes."""
        blank = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), expected)
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(blank)})
        arrays = self._manager.restore(steps_done, args=args)[name]
        damaged = array_facts.damaged(contents[name], arrays)
        if damaged:
            raise ValueError(f"other values than were saved in {', '.join(damaged[:3])}")
        return arrays

    def _set_aside(self, reasons: dict[int, str], restored: int) -> None:
        """Moves damaged checkpoints out of the folder, since training will write their numbers again."""
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
    """The state's fields by name; PRNG keys become plain arrays."""
    arrays = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return {**arrays, "rng": jax.random.key_data(state.rng)}


def _to_arrays(state: MetaState) -> dict:
    return array_facts.to_host(_arrays(state))


def _check_room(folder: Path, arrays: PyTree) -> None:
    """Raises one clear OSError before anything is written, instead of one from each writing thread."""
    needed = sum(array.nbytes for array in jax.tree.leaves(arrays)) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"a checkpoint needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free", str(folder)
        )
