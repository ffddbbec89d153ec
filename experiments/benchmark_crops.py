"""Measures how many photographs a worker reads, decodes and crops in a second, beside tf.data.

    python -m experiments.benchmark_crops [--images=64] [--repeats=3] [--json=FILE]

The photographs are made: smooth noise of 500 x 375 pixels as JPEG, from memory. All variants alternate and make
224 x 224 crops: of the centre, after resizing; at a random place of such an image; scale jitter; a random area.
With tf.data (if TensorFlow is installed), the same random area, flip and colours. Colour jitter here is in the
compiled step; its time is measured apart, on the CPU. Times are processor time, of all threads of the process,
so that they are those of one worker on one core. Results: docs/costs.md.
"""

import functools
import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image
from rich.table import Table

from cmwnet_jax import command
from cmwnet_jax.data.augment import Augmentation, augment
from cmwnet_jax.data.builders import images
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.random import Purpose
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.files import folder_to_write, local_path
from cmwnet_jax.screen import console
from experiments.benchmark_input import measure

_CROP, _RESIZE = 224, 256
_STRENGTH = 0.4


def photographs(count: int) -> list[bytes]:
    """Made JPEGs of quality 90.

    Args:
        count: how many.
    """
    rng, encoded = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(smooth + rng.integers(-24, 25, size=smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


class _Decoding(list):
    """Encoded images, decoded when they are taken."""

    def __getitems__(self, rows: Sequence[int]) -> list[dict]:
        return [{"image": images.decode(self[row], 3)} for row in rows]


def variants(encoded: list[bytes]) -> dict[str, Callable[[int], object]]:
    """Makes the variants: name -> (number of the pass -> something to wait for).

    Args:
        encoded: the photographs.
    """
    count = len(encoded)
    rows, labels = np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    fits = {
        "centre": (Fit(_RESIZE, _CROP), False),
        "random place": (Fit(_RESIZE, _CROP), True),
        "scale jitter, 256 to 480": (Fit(_RESIZE, _CROP, resize_up_to_pixels=480), True),
        "random area": (Fit(_RESIZE, _CROP, least_area=0.08), True),
    }
    runs = {"decoding alone": lambda number: _Decoding(encoded).__getitems__(rows)}
    for name, (fit, is_random) in fits.items():
        split = StreamedSplit(_Decoding(encoded), rows, labels, fit)
        runs[name] = lambda number, split=split, is_random=is_random: split.read(
            rows, (0, Purpose.TRAIN_CROP, number) if is_random else None
        )
    if importlib.util.find_spec("tensorflow"):
        runs["tf.data: random area, flip, colours"] = _tf_data(encoded)
    pixels = jnp.asarray(np.stack([Fit(_RESIZE, _CROP)(images.decode(data, 3)) for data in encoded]))
    for name, change in {
        "in the step: flip": Augmentation(flip=True),
        "in the step: flip, colours": Augmentation(flip=True, color_jitter=_STRENGTH),
    }.items():
        program = jax.jit(functools.partial(augment, change=change))
        runs[name] = lambda number, program=program: program(pixels, rows, jax.random.key(number))
    return runs


def _tf_data(encoded: list[bytes]) -> Callable[[int], object]:
    import tensorflow as tf

    def changed(data):
        whole = tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4])
        start, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data), whole, aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0)
        )
        window = tf.concat([start[:2], size[:2]], axis=0)
        image = tf.image.resize(tf.image.decode_and_crop_jpeg(data, window, channels=3), (_CROP, _CROP))
        image = tf.image.random_flip_left_right(image) / 255
        image = tf.image.random_brightness(image, _STRENGTH)
        image = tf.image.random_contrast(image, 1 - _STRENGTH, 1 + _STRENGTH)
        return tf.image.random_saturation(image, 1 - _STRENGTH, 1 + _STRENGTH)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.from_tensor_slices(encoded).map(changed, num_parallel_calls=1)
    dataset = dataset.batch(len(encoded)).with_options(options)
    return lambda number: next(dataset.as_numpy_iterator())


def main(argv: list[str]) -> None:
    """Measures and prints the table."""
    del argv
    file = local_path("--json", _JSON.value) if _JSON.value else None
    if file is not None:
        folder_to_write("--json", file.parent)
    encoded = photographs(_IMAGES.value)
    seconds = measure(variants(encoded), _REPEATS.value, time.process_time)
    size = sum(map(len, encoded)) / len(encoded) / 1000
    table = Table(title=f"photographs of {size:.0f} kB, {os.cpu_count()} cores, jax {jax.__version__}")
    for column in ("work", "images per second of one core", "ms an image"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{len(encoded) / value:,.0f}", f"{1e3 * value / len(encoded):.2f}")
    console().print(table)
    if file is not None:
        numbers = {"cores": os.cpu_count(), "jax": jax.__version__, "images": len(encoded)}
        file.write_text(json.dumps(numbers | {"seconds_a_pass": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    _IMAGES = flags.DEFINE_integer("images", 64, "photographs of a pass", lower_bound=1)
    _REPEATS = flags.DEFINE_integer("repeats", 3, "passes of each", lower_bound=1)
    _JSON = flags.DEFINE_string("json", "", "where the numbers are written, too")
    command.run(main)
