"""Image sizes of a data set, read from the images' headers."""

import contextlib
from pathlib import Path

import numpy as np

from cmwnet_jax.array_files import read_npy
from cmwnet_jax.data.builders import images
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.sources import ExampleReader, Source
from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import replace_file


def check_one_size(source: Source, fit: Fit, also: tuple[Source, str] | None = None) -> None:
    """Raises a UsageError if the images differ in size, long before the first batch is made.

    Args:
        source: an open data set, whose training and test splits will be streamed.
        fit: how its images are brought to one size.
        also: a second set and the split of it that will be streamed, too.
    """
    if fit.crop_pixels:
        return
    places = [(source, "train"), (source, source.test_split), *([also] if also else [])]
    sizes = {size for place in places for size in image_sizes(*place)}
    fitted = sorted({fit(np.zeros((*size, 1), np.uint8)).shape[:2] for size in sizes})
    if len(fitted) > 1:
        raise UsageError(
            f"data.crop_pixels is 0, but the images of {_names(places)} differ in size, e.g. "
            f"{' and '.join(f'{height}x{width}' for height, width in fitted[:2])}: set it to the size that the "
            f"network should see"
        )


def _names(places: list[tuple[Source, str]]) -> str:
    return " and ".join(dict.fromkeys(source.name for source, _ in places))


def image_sizes(source: Source, split: str) -> set[tuple[int, int]]:
    """The (height, width) pairs of a split's images; stored beside the prepared files for the next time.

    Args:
        source: an open data set.
        split: name of the split.
    """
    records = source.splits[split]
    if not isinstance(records, ExampleReader):  # a user's own source: nothing else is known of it
        return {example["image"].shape[:2] for example in records}
    if records.image_size is not None:
        return {records.image_size}
    kept = Path(source.folder) / f"sizes-{split}.npy"
    with contextlib.suppress(ValueError):  # missing or not ours: read the images again
        return _as_set(read_npy(kept, "", ""))
    sizes = set()
    for _, examples in records.encoded().read():
        sizes.update(images.size_of(example["image"]) for example in examples)
    with contextlib.suppress(OSError):  # a read-only folder only costs time
        replace_file(kept, lambda file: np.save(file, np.array(sorted(sizes), np.int32)))
    return sizes


def _as_set(sizes: np.ndarray) -> set[tuple[int, int]]:
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not len(sizes) or sizes.dtype.kind != "i" or sizes.min() < 1:
        raise ValueError("no list of sizes")
    return {(int(height), int(width)) for height, width in sizes}
