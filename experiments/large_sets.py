"""Counts what runs on large sets take: operations, memory and input, for docs/large_sets.md.

    python -m experiments.large_sets

Needs no accelerator and no data: operations are XLA's count of the forward pass, kept activations are the
arrays that JAX keeps for the backward pass, both from tracing alone; the input's processor time is measured on
made images. Nothing here is a time on an accelerator.
"""

import io
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cmwnet_jax.core.losses import cross_entropy
from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.top_k import TopK
from cmwnet_jax.data.builders.images import decode
from cmwnet_jax.data.streaming import Fit
from cmwnet_jax.models import MODELS
from cmwnet_jax.screen import console

# Table, classifier, pixels a side, classes.
TASKS = (
    ("5", "vgg19_bn", 64, 10),
    ("6", "resnet50", 227, 50),
    ("7", "bilinear_cnn", 448, 200),
    ("9, 12", "inception_resnet_v2", 299, 1000),
)
WEBVISION = 2_400_000  # training images, in thousands of which the paper gives them
_BATCH = 2  # counts grow in proportion to it


def count_task(name: str, side: int, num_classes: int, dtype: str = "float32") -> dict[str, float]:
    """Counts a classifier's parameters, operations and kept activations.

    Args:
        name: its name in `MODELS`.
        side: pixels per side of an image.
        num_classes: C.
        dtype: dtype of its computation.

    Returns:
        `parameters`; `operations` of the forward pass and `kept_bytes` between forward and backward pass, per
        image. Parameters that are kept count as none, since they are there in any case.
    """
    model = MODELS[name](num_classes=num_classes, dtype=jnp.dtype(dtype))
    images = jax.ShapeDtypeStruct((_BATCH, side, side, 3), jnp.float32)
    labels, key = jnp.zeros(_BATCH, jnp.int32), jax.random.key(0)
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), images)
    rest = {part: value for part, value in variables.items() if part != "params"}

    def loss(params, rest, images):
        state = {"params": params, **rest}
        logits, _ = model.apply(state, images, train=True, mutable=list(rest), rngs={"dropout": key})
        return jnp.mean(cross_entropy(logits, labels))

    def kept_by(params, rest, images):
        return jax.vjp(lambda p: loss(p, rest, images), params)[1]

    kept = jax.eval_shape(kept_by, variables["params"], rest, images)
    shapes = {leaf.shape for leaf in jax.tree.leaves(variables["params"])}
    activations = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape not in shapes]
    operations = jax.jit(loss).lower(variables["params"], rest, images).cost_analysis()["flops"]
    return {
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])),
        "operations": operations / _BATCH,
        "kept_bytes": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in activations) / _BATCH,
    }


def table_bytes(num_examples: int, num_classes: int) -> dict[str, float]:
    """Bytes of the pseudo-labels by how they are stored.

    Args:
        num_examples: N.
        num_classes: C.
    """
    kept = TopK.empty(1000, num_classes, 16).values.nbytes / 1000
    return {
        "float32": 4.0 * num_examples * num_classes,
        "bfloat16": 2.0 * num_examples * num_classes,
        "top_k=16": kept * num_examples,
    }


def decode_milliseconds(height: int, width: int, fit: Fit, images: int = 40) -> float:
    """Processor time to decode a made JPEG, resize and crop it, in ms; the median.

    Args:
        height, width: pixels of the JPEG.
        fit: how it is brought to one size.
        images: the number of repetitions.
    """
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    smooth = Image.fromarray(rng.integers(256, size=(height // 8, width // 8, 3), dtype=np.uint8))
    smooth.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    taken = []
    for _ in range(images):
        started = time.thread_time()
        fit(decode(buffer.getvalue(), 3), rng)
        taken.append(1000 * (time.thread_time() - started))
    return float(np.median(taken))


def meta_class_milliseconds(num_classes: int) -> float:
    """Processor time to cluster made class sizes, in ms.

    Args:
        num_classes: C.
    """
    counts = np.random.default_rng(0).integers(200, 10_000, size=num_classes)
    started = time.thread_time()
    MetaClasses.of_counts(counts, 3)
    return 1000 * (time.thread_time() - started)


def main() -> None:
    """Prints all numbers."""
    screen = console()
    for table, name, side, num_classes in TASKS:
        counted = {dtype: count_task(name, side, num_classes, dtype) for dtype in ("float32", "bfloat16")}
        whole, half = counted.values()
        kept = [f"{one['kept_bytes'] / 2**20:.0f}" for one in (whole, half)]
        screen.print(
            f"table {table}: {name}, {side} pixels, {num_classes} classes: {whole['parameters'] / 1e6:.1f} "
            f"million parameters, {whole['operations'] / 1e9:.1f} G operations forward, kept {kept[0]} MiB an "
            f"image, {kept[1]} in bfloat16",
            soft_wrap=True,
        )
    for how, size in table_bytes(WEBVISION, 1000).items():
        screen.print(f"pseudo-labels of WebVision, {how}: {size / 1e9:.2f} GB")
    for size, fit in (((256, 341), Fit(320, 299)), ((375, 500), Fit(320, 299)), ((600, 800), Fit(448, 448))):
        milliseconds = decode_milliseconds(*size, fit)
        screen.print(f"decode {size[0]}x{size[1]}, {fit}: {milliseconds:.1f} ms of a processor core")
    screen.print(f"meta-classes of 1000 classes: {meta_class_milliseconds(1000):.1f} ms")


if __name__ == "__main__":
    main()
