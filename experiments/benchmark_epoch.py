"""Benchmarks a launched epoch of CMW-Net against the same loop in PyTorch: an MLP on Fashion-MNIST.

    python -m experiments.benchmark_epoch --raw_dir=FOLDER_OF_UBYTE_GZ [--rounds=4] [--epochs=3] \
        [--rank_by=history] [--hidden=256,256] [--json=FILE]

An epoch chooses the meta set (10 examples per class of lowest loss), takes 600 steps of 100 examples with a
meta batch of 100, and tests on 10,000 images. The MLP has BatchNorm; there is no mixup, warm-up or weight
decay; the noise is asymmetric, 60%. Ours is the launcher's epoch, of `cmwnet_jax.train`; its seconds are those
in its metrics.jsonl. PyTorch's is `experiments.torch_epoch`: DataLoader, second-order autograd, and images that
are normalised once, beforehand, which is not counted.

Rounds alternate; in each, both train from scratch for some epochs. Medians are over all epochs but each round's
first, which compiles, and in which there are no losses of steps yet, so that both make a pass over the training
set. `--rank_by=now` makes this pass in every epoch, as the paper does. Ours: docs/costs.md.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.data.augment import pixel_moments
from cmwnet_jax.data.load import Data, load_data
from cmwnet_jax.files import file_to_write, replace_file
from cmwnet_jax.runs import stored
from cmwnet_jax.screen import console
from cmwnet_jax.train.build import build_recipe, fit_meta_classes
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.preemption import stop_if_asked
from experiments import compare
from experiments.setting import setting

try:
    import torch

    from experiments import torch_peers
    from experiments.torch_epoch import Loop
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit(
        "error: PyTorch, with which this compares, is not installed: run pip install -r requirements-bench.txt"
    )

OURS, THEIRS = "launched", "PyTorch"


def config_of(raw_dir: str, epochs: int, rank_by: str, hidden: tuple[int, ...], seed: int) -> ConfigDict:
    """The config of one of our runs.

    Args:
        raw_dir: folder of the files in MNIST's format.
        epochs: their number.
        rank_by: as `meta_set.rank_by`.
        hidden: units of the MLP's hidden layers.
        seed: the run's seed.
    """
    arg = f"fashion_mnist,asymmetric_60,cmwnet,epochs={epochs},meta_mixup=off,rank={rank_by},seed={seed}"
    config = compare.get_config(f"{arg},raw_dir={raw_dir}")
    config.warmup_epochs = 0
    config.model.hidden = hidden
    config.optimizer.weight_decay = 0.0
    config.optimizer.decay_at_percent = ()
    return config


def launched(config: ConfigDict) -> dict:
    """Trains in a temporary folder.

    Returns:
        `seconds` and `accuracy_percent` of each epoch, `seconds_ready` until the second epoch, and
        `seconds_compile`.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, folder)
        lines = stored.read_metrics(Path(folder))
    stop_if_asked()
    jax.clear_caches()
    return {
        "seconds": [line["seconds"] for line in lines],
        "accuracy_percent": [line["test_accuracy_percent"] for line in lines],
        "seconds_ready": result["seconds_ready"],
        "seconds_compile": result["seconds_compile"],
    }


def in_pytorch(config: ConfigDict, data: Data) -> dict:
    """Trains the same network from the same parameters on the same labels; returns as `launched`, no start.

    Args:
        config: of `config_of`.
        data: its data.
    """
    loop, seconds, accuracy = make_loop(config, data), [], []
    for _ in range(config.num_epochs):
        started = time.perf_counter()
        accuracy.append(loop.epoch())
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "accuracy_percent": accuracy}


def make_loop(config: ConfigDict, data: Data) -> Loop:
    """PyTorch's loop, at the start.

    Args:
        config: of `config_of`.
        data: its data.
    """
    state = build_recipe(config, data).state
    train_split, test_split = data.splits["train"], data.splits["test"]
    mean, std = (np.asarray(x, np.float32) for x in pixel_moments(train_split.image))

    def tensors(split, labels):
        images = (np.asarray(split.image, np.float32) / 255 - mean) / std
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels.astype(np.int64))

    features = int(np.prod(data.image_shape))
    fields = {"features": features, "hidden": config.model.hidden, "batch_norm": config.model.batch_norm}
    model = torch_peers.mlp(data.source.num_classes, **fields)
    weight_net = torch_peers.WeightNet(config.weight_net.num_meta_classes, config.weight_net.hidden)
    trainer = torch_peers.Trainer(
        torch_peers.load_linen(model, state.params),
        torch_peers.load_linen(weight_net, state.weight_params["params"]),
        torch.tensor(fit_meta_classes(config, data).of_class, dtype=torch.long),
        config.optimizer.learning_rate,
    )
    return Loop(
        trainer,
        tensors(train_split, data.biased.given),
        tensors(test_split, data.test_labels),
        config.batch_size,
        config.meta_set.per_class_examples,
        config.meta_set.rank_by,
    )


def summary(rounds: dict[str, list[dict]]) -> dict:
    """Medians of both, and their ratio.

    Args:
        rounds: results of `launched` and of `in_pytorch`, by name.
    """
    medians = {
        name: statistics.median(value for one in each for value in one["seconds"][1:])
        for name, each in rounds.items()
    }
    accuracy = {
        name: statistics.mean(one["accuracy_percent"][-1] for one in each) for name, each in rounds.items()
    }
    return {
        "epoch_seconds": medians,
        "ratio": medians[OURS] / medians[THEIRS],
        "accuracy_percent_last": accuracy,
        "seconds_ready": statistics.median(one["seconds_ready"] for one in rounds[OURS]),
        "seconds_compile": statistics.median(one["seconds_compile"] for one in rounds[OURS]),
    }


def print_table(found: dict) -> None:
    """Prints the summary."""
    table = Table(title=f"an epoch on Fashion-MNIST; jax {jax.__version__}, torch {torch.__version__}")
    for column in ("loop", "s", "x PyTorch", "test accuracy, last epoch (%)"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    for name, ratio in ((OURS, found["ratio"]), (THEIRS, 1.0)):
        seconds, accuracy = found["epoch_seconds"][name], found["accuracy_percent_last"][name]
        table.add_row(name, f"{seconds:.2f}", f"{ratio:.2f}", f"{accuracy:.1f}")
    console().print(table)
    print(
        f"a launch takes {found['seconds_ready']:.1f} s to the end of its first epoch, of which compiling "
        f"{found['seconds_compile']:.1f} s"
    )


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    raw_dir = command.required(_RAW_DIR.value, "raw_dir", "the folder of Fashion-MNIST's *-ubyte.gz")
    file = file_to_write("--json", _JSON.value, ".json") if _JSON.value else None
    hidden = tuple(map(int, _HIDDEN.value))
    rounds = {OURS: [], THEIRS: []}
    for seed in range(_ROUNDS.value):
        config = config_of(raw_dir, _EPOCHS.value, _RANK_BY.value, hidden, seed)
        check_config(config)
        rounds[OURS].append(launched(config))
        rounds[THEIRS].append(in_pytorch(config, load_data(config)))
    found = summary(rounds)
    print_table(found)
    if file is not None:
        call = {"command": " ".join(["python -m experiments.benchmark_epoch", *sys.argv[1:]])}
        replace_file(file, json.dumps({**call, **setting(), **found, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    _RAW_DIR = flags.DEFINE_string("raw_dir", None, "folder of Fashion-MNIST's files in MNIST's format")
    _ROUNDS = flags.DEFINE_integer("rounds", 4, "runs of each", lower_bound=1)
    _EPOCHS = flags.DEFINE_integer("epochs", 3, "epochs of each run", lower_bound=2)
    _RANK_BY = flags.DEFINE_enum("rank_by", "history", ["history", "now"], "losses that choose the meta set")
    _HIDDEN = flags.DEFINE_list("hidden", ["256", "256"], "units of the hidden layers")
    _JSON = flags.DEFINE_string("json", "", "where the numbers are written, too")
    command.run(main)
