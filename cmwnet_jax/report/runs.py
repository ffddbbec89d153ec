"""Finished runs as they lie on disk."""

import dataclasses
import json
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    Attributes:
        path: its folder.
        result: what result.json holds.
        weights: what weights.npz holds.
    """

    path: Path
    result: dict
    weights: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Reads a run's folder; a FileNotFoundError where the run is not finished."""
        path = Path(path)
        with np.load(path / "weights.npz", allow_pickle=False) as file:
            weights = dict(file)
        return cls(path, json.loads((path / "result.json").read_text()), weights)


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter NaN for fewer than two values."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")
