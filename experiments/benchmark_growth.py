"""Benchmarks how the cost of CMW-Net grows with its sizes, one size at a time.

    python -m experiments.benchmark_growth --json=FILE [--figures=FOLDER] [--rounds=10] [--miniature]
    python -m experiments.benchmark_growth --draw=FILE --figures=FOLDER

A step, of plain training and with the meta half, of an MLP (784-256-256-C with BatchNorm): over the batch size
n from 32 to 1024, the number of classes C from 10 to 10,000, that of meta-classes K from 1 to 100, and the meta
batch from 16 to 1024; the others are then 128, 10, 3 and 128. What is kept of N training examples, from 10^4 to
10^7: the loss history, in a compiled step and on the host as in the launcher, the table of soft labels (10
classes), and the ranking of a meta set.

All programs alternate in one run; times are medians over the rounds, after compilation. FOLDER gets
growth_step.png and growth_rows.png; --draw makes these from an earlier FILE, and measures nothing. --miniature
takes the smallest sizes, to try this script. Ours: docs/costs.md.
"""

import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import cmwnet_jax as cmw
from cmwnet_jax import command, drawing
from cmwnet_jax.core.table import Table
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import file_to_write, folder_to_write, local_path, read_json, replace_file
from experiments.benchmark_step import measure
from experiments.setting import setting
from experiments.step_tasks import Task, examples, parts
from experiments.step_variants import ERM, META, Step, Variant, variant_of

USUAL = {"n": 128, "C": 10, "K": 3, "m": 128}
"""The sizes of a step; m is the meta batch's."""
SIZES = {
    "n": (32, 64, 128, 256, 512, 1024),
    "C": (10, 100, 1000, 10_000),
    "K": (1, 3, 10, 30, 100),
    "m": (16, 32, 64, 128, 256, 512, 1024),
}
ROWS = tuple(round(10 ** (exponent / 2)) for exponent in range(8, 15))
CLASSES_OF_TABLE, CHUNK = 10, 600
IN_STEP = ("loss history, in a compiled step", "table of soft labels, in a compiled step")
BETWEEN = ("loss history, on the host, 600 steps at once", "ranking of a meta set, on the host")

_TITLES = {
    "n": "batch size n",
    "C": "classes C",
    "K": "meta-classes K",
    "m": "meta batch size",
}


def step_variants(sizes: Mapping[str, Iterable[int]]) -> dict[tuple[str, int, str], Variant]:
    """Makes a plain and a meta step for each size, the others as usual.

    Args:
        sizes: by name.

    Returns:
        (name, size, ERM or META) -> variant. A step that several sizes share is made once.
    """
    variants = {}
    for name, values in sizes.items():
        for value in values:
            chosen = {**USUAL, name: value}
            variants[name, value, ERM] = _plain_step(chosen["n"], chosen["C"])
            variants[name, value, META] = _meta_step(**chosen)
    return variants


def _parts(n: int, C: int, K: int) -> tuple[Task, dict, cmw.MetaState]:
    meta_classes = cmw.MetaClasses(np.arange(1.0, K + 1), np.arange(C, dtype=np.int32) % K)
    task = Task("mlp", n, (), (28, 28, 1), {"hidden": (256, 256)})
    return task, *parts(task, jnp.float32, meta_classes)


@functools.cache
def _plain_step(n: int, C: int) -> Variant:
    task, arguments, state = _parts(n, C, USUAL["K"])
    step = cmw.make_weighted_step(objective=arguments["objective"], optimizer=arguments["optimizer"])
    return variant_of([Step.of(step, jax.device_put(examples(task)[0]))], state)


@functools.cache
def _meta_step(n: int, C: int, K: int, m: int) -> Variant:
    task, arguments, state = _parts(n, C, K)
    batches = examples(task)[0], examples(dataclasses.replace(task, batch_size=m))[1]
    return variant_of([Step.of(cmw.make_meta_step(**arguments), *jax.device_put(batches))], state)


def row_variants(counts: Iterable[int]) -> dict[tuple[str, int, str], Variant]:
    """Makes what is done with one row per training example.

    Args:
        counts: the numbers N of examples.

    Returns:
        ("N", N, one of IN_STEP and BETWEEN) -> variant.
    """
    return {("N", count, name): Variant(run) for count in counts for name, run in _on_rows(count).items()}


def _on_rows(count: int) -> dict[str, Callable[[int], None]]:
    rng, n = np.random.default_rng(0), USUAL["n"]
    rows = rng.choice(count, n, replace=False).astype(np.int32)
    losses, labels = rng.exponential(size=count), rng.integers(10, size=count)
    many = rng.integers(count, size=(CHUNK, n))
    held = {
        "history": cmw.LossHistory.create(count),
        "table": Table.full(jnp.full((count, CLASSES_OF_TABLE), 1 / CLASSES_OF_TABLE)),
    }
    on_host = cmw.LossHistory.create(count, on_host=True)
    new = jnp.full((n, CLASSES_OF_TABLE), 0.5)

    def blend(table, rows):
        return table.write(rows, (table.read(rows) + new) / 2)

    add = jax.jit(lambda history, rows: history.update(rows, jnp.ones(n)), donate_argnums=0)
    blend = jax.jit(blend, donate_argnums=0)

    def repeated(name, program):
        def run(times):
            for _ in range(times):
                held[name] = program(held[name], rows)
            jax.block_until_ready(held[name])

        return run

    def each_time(function):
        return lambda times: [function() for _ in range(times)]

    in_step = (repeated("history", add), repeated("table", blend))
    between = (
        each_time(lambda: on_host.update(many, np.ones(many.shape))),
        each_time(lambda: cmw.lowest_loss(losses, labels, num_classes=10, per_class=10)),
    )
    return dict(zip((*IN_STEP, *BETWEEN), (*in_step, *between), strict=True))


def points(variants: Mapping[tuple[str, int, str], Variant], rounds: int) -> dict[str, list[dict]]:
    """Measures the variants.

    Args:
        variants: (name of the size, size, what is done) -> variant.
        rounds: measurements of each.

    Returns:
        Name of the size -> for each size and thing done: `size`, `what`, `seconds`, and of steps the compiler's
        `flops` and `temporary_bytes`.
    """
    distinct = {id(variant): variant for variant in variants.values()}
    seconds = measure(distinct, rounds)
    found = {}
    for (name, size, what), variant in variants.items():
        point = {"size": size, "what": what, "seconds": statistics.median(seconds[id(variant)])}
        if variant.flops is not None:
            point |= {"flops": variant.flops, "temporary_bytes": variant.temporary_bytes}
        found.setdefault(name, []).append(point)
    return found


def draw(report: Mapping, folder: Path) -> list[Path]:
    """Draws both figures.

    Args:
        report: the contents of the JSON file.
        folder: gets growth_step.png and growth_rows.png.
    """
    found, paths = report["points"], [folder / f"growth_{name}.png" for name in ("step", "rows")]
    with matplotlib.rc_context(drawing.STYLE):
        figure = Figure(figsize=(9, 6.4), layout="constrained")
        all_axes = figure.subplots(2, 2, sharey=True).ravel()
        for axes, (name, title) in zip(all_axes, _TITLES.items(), strict=True):
            usual = ", ".join(f"{other} = {size}" for other, size in USUAL.items() if other != name)
            _lines(axes, found[name], (ERM, META), title)
            sizes = sorted({point["size"] for point in found[name]})
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.set_title(usual.replace("m =", "meta batch"), fontsize=9)
        for axes in all_axes[::2]:
            axes.set_ylabel("time of a step (ms)")
        all_axes[0].legend(frameon=False)
        figure.savefig(paths[0], dpi=130)

        figure = Figure(figsize=(9, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, names, label in (
            (left, IN_STEP, "time in each step (ms)"),
            (right, BETWEEN, "time once an epoch or chunk (ms)"),
        ):
            _lines(axes, found["N"], names, "training examples N")
            axes.set_ylabel(label)
            axes.legend(frameon=False, loc="upper left", fontsize=9)
            low, high = np.log10(axes.get_ylim())
            axes.set_ylim(10 ** np.floor(low), 10 ** np.ceil(high + 0.4))  # room for the legend
        figure.savefig(paths[1], dpi=130)
    return paths


def _lines(axes: Axes, found: Iterable[Mapping], names: Iterable[str], title: str) -> None:
    """One line per name, milliseconds over the size, both logarithmic."""
    for place, name in enumerate(names):
        own = [point for point in found if point["what"] == name]
        sizes, times = [point["size"] for point in own], [1e3 * point["seconds"] for point in own]
        style = ("o-", "s--")[place]
        axes.plot(sizes, times, style, color=drawing.LINES[place], linewidth=1.8, markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel=title)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)


def main(argv: list[str]) -> None:
    """Measures or reads, writes and draws."""
    del argv
    if bool(_JSON.value) == bool(_DRAW.value):
        raise UsageError("expected either --json=FILE, to measure, or --draw=FILE, to draw what it holds")
    figures = folder_to_write("--figures", _FIGURES.value) if _FIGURES.value else None
    if _DRAW.value:
        report = read_json(local_path("--draw", _DRAW.value))
    else:
        file = file_to_write("--json", _JSON.value, ".json")
        sizes = {name: values[:2] if _MINIATURE.value else values for name, values in SIZES.items()}
        variants = step_variants(sizes) | row_variants(ROWS[:2] if _MINIATURE.value else ROWS)
        call = {"command": " ".join(["python -m experiments.benchmark_growth", *sys.argv[1:]])}
        device = {"device": jax.devices()[0].device_kind}
        report = call | device | setting() | {"points": points(variants, _ROUNDS.value)}
        replace_file(file, json.dumps(report, indent=2) + "\n")
        print(f"numbers: {file}")
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        print(f"figures: {', '.join(map(str, draw(report, figures)))}")


if __name__ == "__main__":
    _JSON = flags.DEFINE_string("json", "", "where the numbers are written")
    _DRAW = flags.DEFINE_string("draw", "", "numbers of an earlier call, to be drawn")
    _FIGURES = flags.DEFINE_string("figures", "", "folder for the figures; empty: none")
    _ROUNDS = flags.DEFINE_integer("rounds", 10, "measurements of each", lower_bound=1)
    _MINIATURE = flags.DEFINE_bool("miniature", False, "the two smallest sizes of each alone")
    command.run(main)
