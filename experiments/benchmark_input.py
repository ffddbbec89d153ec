"""Benchmarks the input paths, alone and together with a training step.

    python -m experiments.benchmark_input --config=experiments/benchmark_input.py --config.data.dir=DIR \
        --config.data.raw_dir=FOLDER_OF_UBYTE_GZ [--repeats=5] [--json=FILE]

It uses an MLP and a data set that fits into memory. All variants alternate in one run; the results are medians
over `--repeats` epochs. It reports the examples per second of the device path, of the streaming path and, if
TensorFlow is installed, of tf.data doing the same work (cache, shuffle, batch, normalise, prefetch). For each
it also reports the time of a plain training step (the cheapest one, hence the most sensitive to its input) and
of a meta step, against the same step on one fixed batch. Results: docs/costs.md.
"""

import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.data.batches import BatchOrder, Selection
from cmwnet_jax.data.load import Data, load_data
from cmwnet_jax.files import folder_to_write, local_path
from cmwnet_jax.methods.base import Phase
from cmwnet_jax.screen import console
from cmwnet_jax.train import parallel
from cmwnet_jax.train.build import Recipe, build_recipe
from cmwnet_jax.train.config import default_config
from cmwnet_jax.train.inputs import open_input


def get_config() -> ConfigDict:
    """The config: an MLP on files in MNIST's format."""
    config = default_config()
    config.data.name = "mnist_format"
    config.data.path = "device"
    config.batch_size = 128
    config.meta_set.batch_size = 100
    config.weight_net.num_meta_classes = 1  # all classes have the same size
    return config


def _runs(config: ConfigDict, data: Data, recipe: Recipe) -> dict[str, Callable[[int], object]]:
    """Makes the variants: name -> (epoch number -> array to wait for)."""
    method, steps = recipe.method, recipe.epoch_steps
    chosen = Selection(np.arange(100), data.biased.given[:100])
    places = BatchOrder(0, 100, 100, steps, "meta").epoch(0)
    plain, main = method.phases
    phases = {"alone": Phase(_touch), "plain step": plain, "meta step": main}
    streaming = ConfigDict(config.to_dict())
    streaming.data.path = "stream"
    arguments = (method.streams, recipe.orders, config.seed)
    inputs = {
        "device": open_input(data, *arguments, recipe.one_step_a_call),
        "stream": open_input(load_data(streaming), *arguments, True),
    }
    runs = {}
    for path, source in inputs.items():
        meta = source.load("meta", chosen, 0)
        for kind, phase in phases.items():
            runs[f"{path}, {kind}"] = _epochs(source.make_run_steps(phase), recipe, meta, places)
    raw = data.splits["train"].take(np.arange(128))
    for kind in ("plain step", "meta step"):
        runs[f"fixed batch, {kind}"] = _fixed(phases[kind].step, recipe, raw)
    if importlib.util.find_spec("tensorflow"):
        runs |= _tf_data(data, recipe)
    return runs


def _touch(state, batch):
    """A step that reads every pixel and does nothing else."""
    batch = batch["train"]
    zero = jnp.zeros(len(batch["label"]))
    return state.replace(step=state.step + 1), {
        "loss": jnp.sum(batch["image"]),
        "losses": zero,
        "weights": zero,
    }


def _epochs(run_steps, recipe: Recipe, meta, places) -> Callable[[int], object]:
    state = [parallel.replicate(recipe.state)]

    def epoch(number):
        rows = {"train": recipe.orders["train"].epoch(number), "meta": places}
        state[0], metrics = run_steps(state[0], rows, {"meta": meta})
        return metrics

    return epoch


def _fixed(step, recipe: Recipe, raw) -> Callable[[int], object]:
    """Makes one program of an epoch's steps, all on one batch already on the device."""
    batch = {"image": raw.image.astype(np.float32) / 255, "label": raw.label}
    streams = {"train": batch, "meta": jax.tree.map(lambda x: x[:100], batch)}

    def program(state, streams):
        return jax.lax.scan(lambda s, _: step(s, streams), state, None, length=recipe.epoch_steps)

    run = parallel.pmap(program, donate_argnums=(0,))
    state, batches = [parallel.replicate(recipe.state)], parallel.replicate(streams)

    def epoch(number):
        del number
        state[0], metrics = run(state[0], batches)
        return metrics

    return epoch


def _tf_data(data: Data, recipe: Recipe) -> dict[str, Callable[[int], object]]:
    """Makes the tf.data variants: load, cache, shuffle, batch, normalise, prefetch; and a plain step on it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    class Copy(tfds.core.GeneratorBasedBuilder):
        """The same examples in the format that tf.data reads."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Tensor(shape=data.image_shape, dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=data.source.num_classes),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            train = data.splits["train"]
            for row in range(len(train)):
                yield row, {"image": train.image[row], "label": int(train.label[row])}

    builder = Copy(data_dir=tempfile.mkdtemp())
    builder.download_and_prepare()
    size, batch_size = len(data.biased.ids), recipe.orders["train"].batch_size
    dataset = builder.as_dataset(split="train").cache().shuffle(size, reshuffle_each_iteration=True)
    dataset = dataset.batch(batch_size, drop_remainder=True).map(
        lambda e: {"image": tf.cast(e["image"], tf.float32) / 255, "label": tf.cast(e["label"], tf.int32)},
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    step = parallel.pmap(recipe.method.phases[0].step, donate_argnums=(0,))
    state = [parallel.replicate(recipe.state)]

    def alone(number):
        del number
        return sum(float(batch["image"][0, 0, 0, 0]) for batch in dataset.as_numpy_iterator())

    def with_step(number):
        del number
        metrics = None
        for batch in dataset.as_numpy_iterator():
            state[0], metrics = step(state[0], {"train": parallel.put(parallel.split(batch))})
        return metrics

    return {"tf.data, alone": alone, "tf.data, plain step": with_step}


def measure(
    runs: dict[str, Callable[[int], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Measures median seconds per run; variants alternate, after one run that compiles and fills caches.

    Args:
        runs: the variants; each is called with the number of its run.
        repeats: runs of each.
        clock: gives seconds, of the wall or of the processor.
    """
    seconds = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = clock()
            jax.block_until_ready(run(number))
            if number:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_table(seconds: dict[str, float], examples: int, steps: int) -> None:
    """Prints examples per second and time per step, each against its reference."""
    table = Table(
        title=f"{examples} examples, {steps} steps an epoch, {parallel.describe()}, jax {jax.__version__}"
    )
    for column in ("input, work", "epoch (s)", "examples/s", "step (ms)", "against a fixed batch"):
        table.add_column(column, justify="left" if column.startswith("input") else "right")
    for name, value in seconds.items():
        path, kind = name.split(", ")
        fixed = seconds.get(f"fixed batch, {kind}")
        ratio = f"{100 * (value / fixed - 1):+.1f}%" if fixed and path != "fixed batch" else ""
        table.add_row(name, f"{value:.3f}", f"{examples / value:,.0f}", f"{1e3 * value / steps:.3f}", ratio)
    console().print(table)
    if "tf.data, alone" in seconds:
        for kind in ("alone", "plain step"):
            ratio = seconds[f"tf.data, {kind}"] / seconds[f"device, {kind}"]
            print(f"an epoch of the device path against tf.data, {kind}: {ratio:.1f}x faster")


def main(argv: list[str]) -> None:
    """Builds the variants, measures them and prints the table."""
    del argv
    config = command.required(_CONFIG.value, "config", "this file, --config=experiments/benchmark_input.py")
    file = local_path("--json", _JSON.value) if _JSON.value else None
    if file is not None:
        folder_to_write("--json", file.parent)
    data = load_data(config)
    recipe = build_recipe(config, data)
    seconds = measure(_runs(config, data, recipe), _REPEATS.value)
    steps = recipe.epoch_steps
    print_table(seconds, steps * config.batch_size, steps)
    if file is not None:
        numbers = {"device": parallel.describe(), "jax": jax.__version__, "cores": os.cpu_count()}
        file.write_text(json.dumps(numbers | {"seconds_an_epoch": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
    _REPEATS = flags.DEFINE_integer("repeats", 5, "epochs of each", lower_bound=1)
    _JSON = flags.DEFINE_string("json", "", "where the numbers are written, too")
    command.run(main)
