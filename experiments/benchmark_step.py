"""Benchmarks the meta step against PyTorch: time, floating-point operations and memory.

    python -m experiments.benchmark_step [--models=mlp,mlp_1024,transformer] [--variants='*delayed*'] \
        [--rounds=20] [--dtype=float32] [--output=FILE.json] [--profile=FOLDER]

All variants alternate in one run, on the same fixed batches. Times are medians over the rounds, of steps that
are already compiled; compile time is reported separately. Operations and peak temporary memory are the
compiler's own counts. The cosine compares a variant's meta-gradient with the exact one in float32, after ten
steps of plain training. Variants that need independent examples are left out for networks with BatchNorm.
If PyTorch is installed (`requirements-bench.txt`), its equivalents are measured too
(`experiments.torch_peers`). Without an accelerator, the two large models are left out, and several steps in one
program are measured only for models without convolutions (`parallel.loops_are_slow`).

`--profile` writes a profile of three ERM steps and three meta steps of each model to FOLDER/MODEL, for
TensorBoard or https://ui.perfetto.dev.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves device memory for PyTorch

import jax
import numpy as np
from absl import flags
from rich.table import Table
from rich.text import Text

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import check_writable, local_path, replace_file
from cmwnet_jax.screen import console
from experiments.setting import setting
from experiments.step_tasks import DTYPES, TASKS
from experiments.step_variants import (
    ERM,
    META,
    PEERS,
    Variant,
    exact_meta_gradient,
    jax_variants,
    torch_variants,
)

_SHORTEST = 0.05  # minimum duration of a measurement, in seconds
_SPEED_COLUMNS = {
    "second_order": "x faster than 2nd order",
    "pruned_second_order": "than pruned",
    "finite_difference": "than finite diff.",
}


def measure(variants: Mapping[str, Variant], rounds: int) -> dict[str, list[float]]:
    """Measures seconds per step of each variant, `rounds` times, alternating.

    Args:
        variants: the variants by name.
        rounds: the number of measurements of each.
    """
    steps = {name: variant.group * _enough(variant) for name, variant in variants.items()}
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            variant.run(variant.group)  # wakes this library's sleeping threads
            started = time.perf_counter()
            variant.run(steps[name])
            seconds[name].append((time.perf_counter() - started) / steps[name])
    return seconds


def _enough(variant: Variant) -> int:
    """The number of groups that a variant must run for an accurate time."""
    started = time.perf_counter()
    variant.run(variant.group)
    return math.ceil(_SHORTEST / (time.perf_counter() - started))


def results(variants: Mapping[str, Variant], seconds: Mapping[str, list[float]], exact: np.ndarray) -> dict:
    """Collects the results of each variant for the JSON file; unknown values are None.

    Args:
        variants: the variants by name.
        seconds: seconds per step, by name and round.
        exact: the exact meta-gradient in float32.
    """
    median = {name: statistics.median(values) for name, values in seconds.items()}
    erm = variants[ERM]
    return {
        name: {
            "seconds": median[name],
            "seconds_of_rounds": seconds[name],
            "ratio_to_erm": median[name] / median[variant.baseline],
            "speed_against": {peer: median[peer] / median[name] for peer in PEERS.values() if peer in median},
            "compile_seconds": variant.compile_seconds,
            "flops": variant.flops,
            "flops_ratio_to_erm": variant.flops and variant.flops / erm.flops,
            "temporary_bytes": variant.temporary_bytes,
            "temporary_ratio_to_erm": variant.temporary_bytes and variant.temporary_bytes / erm.temporary_bytes,
            "cosine_to_exact": None if variant.meta_gradient is None else cosine(variant.meta_gradient, exact),
        }
        for name, variant in variants.items()
    }


def profile(variants: Mapping[str, Variant], folder: Path) -> None:
    """Writes a profile of three plain and three meta steps, after they are compiled.

    Args:
        variants: the variants by name.
        folder: the folder of the profile, for TensorBoard and Perfetto.
    """
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        for name in (ERM, META):
            with jax.profiler.TraceAnnotation(name):
                variants[name].run(3)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine of the angle between two vectors."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def make_table(report: dict) -> Table:
    """Makes the table of a report: one section per model, one row per variant.

    Args:
        report: the contents of the JSON file.
    """
    versions = report["versions"]
    torch = f", torch {versions['torch']}" if versions["torch"] else ""
    title = f"{report['device']}, {report['cores']} cores, {report['dtype']}, jax {versions['jax']}{torch}"
    caption = (
        "x ERM in time: PyTorch's by its own ERM, a meta step of ten in one program by ten ERM steps in one"
    )
    table = Table(title=title, caption=caption)
    table.add_column("model, variant")
    columns = (
        "ms",
        "x ERM",
        *_SPEED_COLUMNS.values(),
        "GFLOP",
        "x ERM",
        "MiB",
        "x ERM",
    )
    for column in (*columns, "cosine", "compile (s)"):
        table.add_column(column, justify="right")
    for model, variants in report["models"].items():
        table.add_section()
        table.add_row(Text(model, style="bold"))
        for name, row in variants.items():
            speed = row["speed_against"]
            table.add_row(
                name,
                f"{1e3 * row['seconds']:.2f}",
                f"{row['ratio_to_erm']:.2f}",
                *(_shown(speed.get(PEERS[peer]), ".2f") for peer in _SPEED_COLUMNS),
                _shown(row["flops"], ".3f", 1e9),
                _shown(row["flops_ratio_to_erm"], ".2f"),
                _shown(row["temporary_bytes"], ".1f", 2**20),
                _shown(row["temporary_ratio_to_erm"], ".2f"),
                _shown(row["cosine_to_exact"], ".5f"),
                _shown(row["compile_seconds"], ".1f"),
            )
    return table


def _shown(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else format(value / unit, form)


def chosen_models(names: list[str]) -> list[str]:
    """The tasks with these names; without names, those that the device is fast enough for.

    Raises:
        UsageError: a name is unknown.
    """
    for name in names:
        if name not in TASKS:
            raise unknown_name("--models", name, TASKS)
    small = jax.default_backend() == "cpu"
    return names or [name for name, task in TASKS.items() if not (small and task.accelerator)]


def check_folder(flag: str, folder: Path) -> None:
    """Creates the folder if missing, before anything is measured.

    Raises:
        UsageError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        raise UsageError(
            f"{flag} needs the folder {str(folder)!r}, which cannot be written: choose another"
        ) from error


def main(argv: list[str]) -> None:
    """Builds the variants, measures them, prints the table and writes the JSON file."""
    del argv
    dtype = _DTYPE.value
    if _OUTPUT.value:
        check_folder("--output", local_path("--output", _OUTPUT.value).parent)
    if _PROFILE.value:
        check_folder("--profile", local_path("--profile", _PROFILE.value))
    device = {"device": jax.devices()[0].device_kind}
    call = {"command": " ".join(["python -m experiments.benchmark_step", *sys.argv[1:]])}
    report = device | setting() | call | {"dtype": dtype, "rounds": _ROUNDS.value, "models": {}}
    for name in chosen_models(_MODELS.value):
        task = TASKS[name]
        variants, state = jax_variants(task, DTYPES[dtype], _VARIANTS.value)
        variants |= torch_variants(task, state, dtype, _VARIANTS.value)
        exact = exact_meta_gradient(task, state)
        report["models"][name] = results(variants, measure(variants, _ROUNDS.value), exact)
        if _OUTPUT.value:  # after each model, lest a later one, or the profiler, ends the process
            replace_file(local_path("--output", _OUTPUT.value), json.dumps(report, indent=2) + "\n")
        if _PROFILE.value:
            profile(variants, Path(_PROFILE.value).expanduser() / name)
        print(f"{name}: measured", file=sys.stderr, flush=True)
    console(width=None if sys.stdout.isatty() else 190).print(make_table(report))


if __name__ == "__main__":
    _MODELS = flags.DEFINE_list("models", [], f"which of {', '.join(TASKS)}")
    _VARIANTS = flags.DEFINE_list("variants", [], "patterns of the variants' names, e.g. 'meta step,*delayed*'")
    _ROUNDS = flags.DEFINE_integer("rounds", 20, "measurements of each variant", lower_bound=1)
    _DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "what the models compute in")
    _OUTPUT = flags.DEFINE_string("output", "", "where the numbers are written, too, as JSON")
    _PROFILE = flags.DEFINE_string("profile", "", "folder for the profiler's records; empty: none are made")
    command.run(main)
