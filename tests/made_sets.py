"""Data sets that stand for the published ones by name: their shape and classes, few images, no files."""

import functools

import numpy as np

from cmwnet_jax.data import sources
from cmwnet_jax.data.sources import Dataset, Source, Split

# Classes, and the shape of an image or vector as it is stored; of larger sets, sizes differ in truth.
SHAPES = {
    "arrays": (10, (12,)),
    "animal10n": (10, (64, 64, 3)),
    "cifar10": (10, (32, 32, 3)),
    "cifar100": (100, (32, 32, 3)),
    "csv": (10, (12,)),
    "fashion_mnist": (10, (28, 28, 1)),
    "imagenet2012": (1000, (3, 2, 3)),  # small, since a bias keeps 128 images of each class
    "imagenet_lt": (1000, (40, 50, 3)),
    "imagenet_val": (1000, (60, 50, 3)),
    "kmnist": (10, (28, 28, 1)),
    "mnist": (10, (28, 28, 1)),
    "web_aircraft": (100, (50, 60, 3)),
    "web_bird": (200, (50, 60, 3)),
    "web_car": (196, (50, 60, 3)),
    "webvision": (1000, (50, 40, 3)),
    "webvision_mini": (50, (50, 40, 3)),
}


class _Records(list):
    """A split's examples, one a row."""

    def __getitems__(self, rows):
        return [self[row] for row in rows]


@functools.lru_cache(4)
def made_split(name: str, per_class: int) -> Split:
    """As many of each class; of a thousand classes, three have any, of three sizes, unless many are needed."""
    classes, shape = SHAPES[name]
    some = classes == 1000 and per_class <= 16
    labels = np.repeat([0, 500, 999], [16, 8, 4]) if some else np.arange(per_class * classes) % classes
    rng = np.random.default_rng(len(labels))
    inputs = rng.integers(256, size=(len(labels), *shape), dtype=np.uint8)
    inputs = inputs if len(shape) == 3 else inputs.astype(np.float32)
    return Split(inputs, labels.astype(np.int32))


def stand_in(monkeypatch, per_class: int = 10) -> None:
    """Has the launcher find made data sets under the names of `SHAPES`."""

    def read(source):
        return load(source.name)

    def read_split(source, split):
        return getattr(load(source.name), split)

    def load(name, data_dir="", raw_dir=""):
        train, test = made_split(name, per_class), made_split(name, 1)
        names = tuple(f"class {c}" for c in range(SHAPES[name][0]))
        return Dataset(name, train, test, names)

    def open(name, data_dir="", raw_dir="", options=None, needed=()):
        dataset = load(name)
        splits = {
            split: _Records({"image": x, "label": y} for x, y in zip(part.images, part.labels, strict=True))
            for split, part in (("train", dataset.train), ("test", dataset.test))
        }
        return Source(name, dataset.class_names, splits, "test", folder=name)

    def read_labels(source, split):
        return np.array([example["label"] for example in source.splits[split]], np.int32)

    for function in (load, open, read, read_labels, read_split):
        monkeypatch.setattr(sources, function.__name__, function)
