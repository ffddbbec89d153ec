"""Time and memory of an audit, on a run that is made up.

    python -m experiments.benchmark_audit [--examples=60000] [--classes=10] [--probabilities]

Prints the seconds (on the clock, and of the processor) that `python -m cmwnet_jax.audit` takes after its
imports, and the peak of the process's memory. Ours: docs/costs.md.
"""

import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from cmwnet_jax import command
from cmwnet_jax.audit.write import write_audit
from cmwnet_jax.errors import UsageError


def make_run(folder: Path, examples: int, classes: int, probabilities: bool) -> None:
    """Writes what a run leaves for an audit, of random numbers; a tenth of the labels are wrong.

    Args:
        folder: the run's folder, created.
        examples: N.
        classes: C.
        probabilities: whether to write all class probabilities, too.
    """
    rng, folder = np.random.default_rng(0), folder / "run"
    folder.mkdir()
    true = rng.integers(classes, size=examples, dtype=np.int32)
    given = np.where(rng.random(examples) < 0.1, rng.integers(classes, size=examples), true).astype(np.int32)
    losses = rng.gamma(1, 0.3, examples).astype(np.float32) + 2 * (given != true)
    chance = np.exp(-losses)
    arrays = {
        "weights": {
            "ids": np.arange(examples),
            "given": given,
            "true": true,
            "truth_known": np.array(True),
            "meta_class": given % 3,
            "centers": np.array([1.0, 2, 3]),
            "losses": losses,
            "weights": chance,
            "seen": np.ones(examples, bool),
            "mean_losses": losses,
            "mean_margins": np.log(chance / (1 - chance)),
            "visits": np.full(examples, 9),
        },
        "predictions": {
            "given_probability": chance,
            "other": np.where(given == true, (given + 1) % classes, true),
            "other_probability": 1 - chance,
            "class_names": np.array([f"class {c}" for c in range(classes)]),
        },
        "bias": {"ids": np.arange(examples)},
    }
    for name, content in arrays.items():
        np.savez(folder / f"{name}.npz", **content)
    facts = {"dataset": "made_up", "dataset_checksum": "", "name": "none", "seed": 0, "truth_known": True}
    data = {"name": "made_up", "dir": "", "raw_dir": ""}
    files = {
        "bias": facts,
        "config": {"method": "cmwnet", "seed": 0, "num_epochs": 1, "data": data},
        "result": {"test_accuracy_percent_last10": 50},
        "names": {"id": [f"images/{row:08d}.jpg" for row in range(examples)]},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    if probabilities:
        header = {"descr": "<f2", "fortran_order": False, "shape": (examples, classes)}
        with (folder / "probabilities.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(examples):
                file.write(np.full(classes, 1 / classes, np.float16).tobytes())


def main(argv: list[str]) -> None:
    """Makes a run, audits it and prints what that took."""
    if len(argv) > 1:
        raise UsageError(f"got the argument {argv[1]!r}, expected flags alone: put '--' before its name")
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder), _EXAMPLES.value, _CLASSES.value, _PROBABILITIES.value)
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        write_audit([Path(folder) / "run"], Path(folder) / "audit")
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{_EXAMPLES.value:,} examples of {_CLASSES.value:,} classes: {seconds:.2f} s on the clock,")
    print(f"{used:.2f} s of the processor; peak memory {after.ru_maxrss / 2**20:.2f} GiB,")
    print(f"of which {before.ru_maxrss / 2**20:.2f} GiB were there before the audit, to make up the run")


if __name__ == "__main__":
    _EXAMPLES = flags.DEFINE_integer("examples", 60_000, "number of training examples", lower_bound=10)
    _CLASSES = flags.DEFINE_integer("classes", 10, "number of classes", lower_bound=2)
    _PROBABILITIES = flags.DEFINE_bool("probabilities", False, "the run has left all class probabilities")
    command.run(main)
