"""Run folder: config.json, metrics.jsonl, arrays, a copy of the initial weight net; result.json comes last."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import (
    folder_to_write,
    local_folder,
    local_path,
    remove_partial_files,
    replace_file,
    sync,
)
from cmwnet_jax.runs import lock, stored
from cmwnet_jax.runs.arrays import has_arrays, read_arrays, read_confidences

_NEEDED = (
    "test_accuracy_percent",
    "loss_min",
    "loss_max",
)  # metrics of earlier epochs that a resumed run needs
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """Reads and writes the files of one run; each file is written whole or not at all."""

    def __init__(self, path: str | os.PathLike, filled: Callable[[dict], dict] = dict):
        """Does not access the folder.

        Args:
            path: the folder; it may be missing.
            filled: adds defaults for fields that are newer than a config.

        Raises:
            UsageError: the path is not on this machine.
        """
        self._filled = filled
        self._history: list[dict] = []
        self.path = local_path("workdir", path).absolute()

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / stored.CHECKPOINTS

    @property
    def initial_weight_net(self) -> Path:
        """The run's own copy of the weight net that it started from, in case the original is removed."""
        return self.path / stored.INITIAL_WEIGHT_NET

    def check(self, config: ConfigDict) -> None:
        """Checks that a run may start or continue here; leaves nothing behind.

        A run may go on for longer: its `num_epochs` alone may be more than it was.

        Raises:
            UsageError: another process is running in the folder, it cannot be written, or it holds a finished
                run of as many epochs, a run of another config, or a damaged one.
        """
        local_folder("workdir", self.path)
        stored.check_kinds(self.path)
        lock.check_free(self._lock_file)
        folder_to_write("workdir", self.path)
        for name in stored.FOLDERS:
            if (self.path / name).exists():
                folder_to_write(f"the workdir's {name}", self.path / name)
        self._check_contents(config)

    @contextlib.contextmanager
    def writing(self, config: ConfigDict) -> Iterator[None]:
        """Creates the folder and locks it for this process; explains a full disk.

        Args:
            config: the run's config.

        Raises:
            UsageError: as `check`, which may have been long ago; also if the disk is full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with lock.hold(self._lock_file):
                self._check_contents(config)
                yield
        except Exception as error:
            if not _is_full_disk(error):
                raise
            raise UsageError(
                f"workdir is {str(self.path)!r}, whose disk is full ({first_line(error)}): make room and give "
                f"the same command again, it goes on from the newest checkpoint"
            ) from error

    def _check_contents(self, config: ConfigDict) -> None:
        finished = stored.read_result(self.path) is not None
        before = self.config_before()
        longer = before is not None and config.num_epochs > before.num_epochs
        if finished and not longer:
            raise UsageError(
                f"workdir is {str(self.path)!r}, which holds a finished run: choose another folder or remove it"
            )
        if finished and not self.has_checkpoint:
            raise UsageError(
                f"workdir is {str(self.path)!r}, which holds a finished run without a checkpoint to go on "
                f"from: choose another folder, or bring back its {stored.CHECKPOINTS}"
            )
        epochs = stored.read_metrics(self.path, _NEEDED)
        if before is None:
            if epochs or self.has_checkpoint:
                raise UsageError(
                    f"workdir is {str(self.path)!r}, which holds an unfinished run without its "
                    f"{stored.CONFIG}: bring the file back, or choose another folder"
                )
        elif difference := self._difference(config, longer):
            kind = "a finished" if finished else "an unfinished"
            hint = " (model.init starts from a finished run's classifier)" if longer else ""
            raise UsageError(
                f"workdir is {str(self.path)!r}, which holds {kind} run of another config ({difference}): "
                f"choose another folder{hint}, or remove it"
            )
        # The last epoch writes these before its checkpoint; a resumed run may not write them again.
        for name in stored.ARRAYS:
            if has_arrays(self.path, name):
                read_arrays(self.path, name)
        if os.path.lexists(self.path / stored.CONFIDENCES):
            read_confidences(self.path)

    def check_finished(self, config: ConfigDict) -> None:
        """Raises a UsageError if the finished run in this folder has another config or is damaged."""
        stored.read_result(self.path)
        stored.read_metrics(self.path)
        if self._difference(config):
            raise UsageError(
                f"{self.path} holds a finished run of another config: remove it, or take another workdir"
            )

    def finished_config(self) -> ConfigDict:
        """The config of the finished run in this folder.

        Raises:
            UsageError: there is none, or it is damaged.
        """
        if stored.read_result(self.path) is None:
            raise UsageError(f"workdir is {str(self.path)!r}, which holds no finished run: train it first")
        return ConfigDict(self._filled(stored.read_config(self.path)))

    def config_before(self) -> ConfigDict | None:
        """The config of the run in this folder so far, finished or not; None where there is none.

        Raises:
            UsageError: it is spoilt.
        """
        if not os.path.lexists(self._config_file):
            return None
        return ConfigDict(self._filled(stored.read_config(self.path)))

    def from_own_copy(self, config: ConfigDict, has_checkpoint: bool) -> ConfigDict:
        """The config without what a run no longer needs of others, which may be gone.

        The weight net that it started from is the run's own copy, where there is one, and the classifier is
        in every checkpoint.

        Args:
            config: the run's.
            has_checkpoint: whether the run goes on from a checkpoint of its own.
        """
        own = {}
        if config.weight_net.init and self.initial_weight_net.exists():
            own["weight_net.init"] = str(self.initial_weight_net)
        if has_checkpoint and (config.model.pretrained or config.model.init):
            own |= {"model.pretrained": "", "model.init": ""}
        if not own:
            return config
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(own)
        return config

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, be it spoilt."""
        return self.newest_checkpoint > 0

    @property
    def newest_checkpoint(self) -> int:
        """The steps that were done when it was written; 0 where there is none."""
        numbers = (path.name for path in self.checkpoints.glob("*"))
        return max((int(name) for name in numbers if name.isdecimal()), default=0)

    def start(self, config: ConfigDict, epoch: int) -> None:
        """Creates the folder, and removes metrics of epochs that will be run again and an earlier result.

        Args:
            config: the run's config.
            epoch: the first epoch to run.

        Raises:
            UsageError: metrics of earlier epochs are missing.
        """
        kept = stored.read_metrics(self.path, ())[:epoch]
        if len(kept) < epoch:
            raise UsageError(
                f"workdir is {str(self.path)!r}, whose metrics.jsonl has {len(kept)} of the {epoch} epochs "
                f"that its newest checkpoint has done: bring the file back, or remove the workdir to start over"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        remove_partial_files(self.path)
        (self.path / stored.RESULT).unlink(missing_ok=True)  # before its config is one of more epochs
        replace_file(self._config_file, stored.as_json(config))
        replace_file(self._metrics_file, "".join(_json(metrics) + "\n" for metrics in kept))
        self._history = kept

    def append_metrics(self, metrics: dict) -> None:
        """Appends one epoch's line to metrics.jsonl; NaN becomes null."""
        line = _json(metrics)
        with self._metrics_file.open("ab") as file:
            file.write((line + "\n").encode())
            sync(file)  # the line must be on the disk before a checkpoint of this epoch is
        self._history.append(json.loads(line))

    @property
    def history(self) -> Sequence[dict]:
        """The metrics of all epochs since `start`, and of those before that it kept."""
        return self._history

    def metrics(self) -> list[dict]:
        """The metrics of all epochs so far, read from the file."""
        return stored.read_metrics(self.path, (), first_epoch=None)

    def write_weights(self, **arrays: np.ndarray) -> None:
        """Writes weights.npz."""
        replace_file(self.path / "weights.npz", lambda file: np.savez_compressed(file, **arrays))

    def write_evaluation(self, **arrays: np.ndarray) -> None:
        """Writes evaluation.npz."""
        replace_file(self.path / "evaluation.npz", lambda file: np.savez_compressed(file, **arrays))

    def write_left(self, name: str, contents: np.ndarray | Mapping) -> None:
        """Writes a result: an array as `.npy`, arrays by name as `.npz`, or other fields as `.json`."""
        if name.endswith(".json"):
            replace_file(self.path / name, json.dumps(contents))
        elif isinstance(contents, np.ndarray):
            replace_file(self.path / name, lambda file: np.save(file, contents))
        else:
            replace_file(self.path / name, lambda file: np.savez_compressed(file, **contents))

    def write_initial_weight_net(self, content: bytes) -> None:
        """Writes initial_weight_net.safetensors."""
        replace_file(self.initial_weight_net, content)

    def write_result(self, result: dict) -> None:
        """Writes result.json, which marks the run as finished."""
        replace_file(self.path / stored.RESULT, _json(result, indent=2) + "\n")

    def _difference(self, config: ConfigDict, longer: bool = False) -> str:
        """The first difference between the run's config and another, which may be `longer`; or empty."""
        old = self._filled(stored.read_config(self.path))
        new = self._filled(json.loads(stored.as_json(config)))
        if longer:
            old["num_epochs"] = new["num_epochs"]
        return "" if old == new else _first_difference(old, new)

    @property
    def _config_file(self) -> Path:
        return self.path / stored.CONFIG

    @property
    def _metrics_file(self) -> Path:
        return self.path / stored.METRICS

    @property
    def _lock_file(self) -> Path:
        return self.path / stored.LOCK


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether this error or one of its causes is a full disk; TensorStore's says so only in words."""
    if error is None:
        return False
    texts = [os.strerror(number) for number in _FULL_DISK]
    return (
        (isinstance(error, OSError) and error.errno in _FULL_DISK)
        or any(text in str(error) for text in texts)
        or _is_full_disk(error.__cause__)
    )


def _first_difference(old: dict, new: dict) -> str:
    """The first field, by name, in which two different configs differ."""
    before, now = stored.flat(old), stored.flat(new)
    name = next(name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name))
    return f"{name} was {stored.shown(before.get(name))} and is {stored.shown(now.get(name))}"


def _json(value: dict, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value):
    """Replaces NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
