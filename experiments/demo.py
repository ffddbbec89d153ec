"""Compares ERM, MW-Net and CMW-Net on the digits: `make demo`.

    python -m experiments.demo --workdir=runs/demo [--seeds=5]

Trains each method on the same biased labels with the same number of steps and the same schedule, prints mean
and standard deviation over the seeds, and draws the learned weighting functions. Finished runs are kept; when
called again, it trains only the missing ones.
"""

from cmwnet_jax.train import signals

if __name__ == "__main__":
    signals.stop_at_once()  # before the imports, which take seconds

import time
from pathlib import Path

from absl import flags
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import folder_to_write
from cmwnet_jax.report.figures import save_weighting_figure
from cmwnet_jax.report.find import Found
from cmwnet_jax.report.runs import mean_and_sd
from cmwnet_jax.runs import stored
from cmwnet_jax.screen import console
from cmwnet_jax.train.config import run_folder
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.preemption import stop_if_asked
from experiments.digits import get_config

_METHODS = {"erm": "ERM (plain training)", "mwnet": "MW-Net (K = 1)", "cmwnet": "CMW-Net (K = 3)"}

_LEARNED = {method: name for method, name in _METHODS.items() if method != "erm"}

_SHOWN = (stored.ACCURACY, "seconds", "num_examples", "wrong_rate")


def run_all(workdir: Path, seeds: int, data_dir: str = "") -> dict[str, list[Found]]:
    """Returns the finished runs of each method; trains the missing ones."""
    runs = {}
    for method in _METHODS:
        runs[method] = []
        for seed in range(seeds):
            folder = workdir / method / f"seed{seed}"
            config = get_config(f"method={method},seed={seed}")
            config.data.dir = data_dir
            config.watch.pictures_every_epochs = 0  # each run takes seconds
            if not stored.is_finished(folder):
                train(config, folder)
                stop_if_asked()
            else:
                run_folder(folder).check_finished(config)
                stored.read_result(folder, numbers=_SHOWN)
            runs[method].append(Found(folder, (), method, seed))
    return runs


def print_table(runs: dict[str, list[Found]]) -> None:
    """Prints test accuracy and weight AUC, as mean and standard deviation over the seeds."""
    result = runs["erm"][0].result
    table = Table(
        title=f"digits, bias {result['bias']}: {result['num_examples']} examples, "
        f"{100 * result['wrong_rate']:.0f}% of the labels wrong; mean ± sd of {len(runs['erm'])} seeds"
    )
    for column in (
        "method",
        "test accuracy (%), last 10 epochs",
        "weight AUC, last 10 epochs",
        "seconds a run",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, name in _METHODS.items():
        numbers = {
            field: mean_and_sd([run.result[field] for run in runs[method]])
            for field in (stored.ACCURACY, stored.WEIGHT_AUC, "seconds")
        }
        auc = "-" if method == "erm" else "{:.2f} ± {:.2f}".format(*numbers[stored.WEIGHT_AUC])
        accuracy = "{:.1f} ± {:.1f}".format(*numbers[stored.ACCURACY])
        table.add_row(name, accuracy, auc, f"{numbers['seconds'][0]:.1f}")
    console().print(table)


def main(argv: list[str]) -> None:
    """Trains the runs, prints the table and draws the weighting functions."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    started = time.perf_counter()
    workdir = folder_to_write("--workdir", _WORKDIR.value)
    runs = run_all(workdir, _SEEDS.value, _DATA_DIR.value)
    print_table(runs)
    picture = workdir / "weighting.png"
    weights = {name: [run.arrays("weights") for run in runs[method]] for method, name in _LEARNED.items()}
    save_weighting_figure(weights, picture)
    print(
        "weight AUC: 1 where every right label weighs more than every wrong one, 0.5 where weights tell nothing"
    )
    print(f"picture: {picture}   ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "folder for the runs and the picture")
    _SEEDS = flags.DEFINE_integer("seeds", 5, "runs of each method, with the seeds from 0", lower_bound=1)
    _DATA_DIR = flags.DEFINE_string("data_dir", "", "prepared data sets; empty: TFDS_DATA_DIR, else tfds's own")
    command.run(main)
