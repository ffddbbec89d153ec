"""A run's folder: config.json, metrics.jsonl, weights.npz, result.json (last), checkpoints/, figures/."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError


class RunFolder:
    """Reads and writes one run's files; each file is replaced as a whole or not at all."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser().absolute()

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    def check(self, config: ConfigDict) -> None:
        """Checks that a run may be started or continued here, and leaves nothing behind.

        Raises:
            UsageError: the folder cannot be written, or holds a finished run or another config's.
        """
        if (self.path / "result.json").exists():
            raise UsageError(
                f"workdir is {str(self.path)!r}, which holds a finished run: choose another folder or remove it"
            )
        before = self.path / "config.json"
        if before.exists() and json.loads(before.read_text()) != _plain(config):
            raise UsageError(
                f"workdir is {str(self.path)!r}, which holds an unfinished run of another config "
                f"({_first_difference(json.loads(before.read_text()), _plain(config))}): "
                f"choose another folder, or remove it"
            )
        parent = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise UsageError(
                f"workdir is {str(self.path)!r}, which cannot be written ({error.strerror}): choose another"
            ) from error

    def finished_config(self) -> ConfigDict:
        """The config of the finished run in this folder.

        Raises:
            UsageError: there is none.
        """
        if not (self.path / "result.json").exists():
            raise UsageError(f"workdir is {str(self.path)!r}, which holds no finished run: train it first")
        return ConfigDict(json.loads((self.path / "config.json").read_text()))

    def start(self, config: ConfigDict, epoch: int) -> None:
        """Makes the folder, and drops metrics of epochs that will be run again.

        Args:
            config: the run's.
            epoch: the first epoch that will be run.
        """
        (self.path / "figures").mkdir(parents=True, exist_ok=True)
        self._replace("config.json", json.dumps(_plain(config), indent=2) + "\n")
        kept = [line for line in self._metric_lines() if json.loads(line)["epoch"] < epoch]
        self._replace("metrics.jsonl", "".join(line + "\n" for line in kept))

    def append_metrics(self, metrics: dict) -> None:
        """Adds one epoch's line to metrics.jsonl; a NaN becomes null."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(_json(metrics) + "\n")

    def metrics(self) -> list[dict]:
        """The epochs so far."""
        return [json.loads(line) for line in self._metric_lines()]

    def write_weights(self, **arrays: np.ndarray) -> None:
        """Writes weights.npz."""
        with tempfile.NamedTemporaryFile(dir=self.path, delete=False) as file:
            np.savez_compressed(file, **arrays)
        os.replace(file.name, self.path / "weights.npz")

    def write_result(self, result: dict) -> None:
        """Writes result.json, which says that the run is finished."""
        self._replace("result.json", _json(result, indent=2) + "\n")

    def _metric_lines(self) -> list[str]:
        """Whole lines only: a killed run may have left half of one."""
        file = self.path / "metrics.jsonl"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def _replace(self, name: str, text: str) -> None:
        partial = self.path / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)


def _plain(config: ConfigDict) -> dict:
    return json.loads(config.to_json_best_effort())


def _first_difference(old: dict, new: dict, prefix: str = "") -> str:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict) and before != now:
            return _first_difference(before, now, f"{prefix}{name}.")
        if before != now:
            return f"{prefix}{name} was {before!r} and is {now!r}"
    raise AssertionError("the configs are equal")


def _json(value: dict, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value):
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
