"""Statistics over the runs of a cell."""

import numpy as np


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for fewer than two values."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")
