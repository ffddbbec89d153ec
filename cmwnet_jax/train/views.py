"""From stored examples to network input: augmentation per view, then standardisation; runs inside programs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmwnet_jax.data import kinds
from cmwnet_jax.data.augment import augment, column_moments, pixel_moments
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.methods.base import Stream
from cmwnet_jax.train.compiling import Fetched, Prepare

_SAMPLE = 1000  # images of a streamed split from which moments are computed
_CHUNK = 1000  # vectors that are read at once for their moments
_VIEW = 0x76696577  # separates the views' keys from the rows' keys, whose numbers are smaller


class Scaling(NamedTuple):
    """How inputs are standardised: an argument of programs, so that data sets of one shape share them.

    Attributes:
        shift: [channels] float32, subtracted from scaled pixels, or [d] float32, subtracted from vectors before
            they are scaled; empty for tokens.
        scale: [channels] or [d] float32; empty for tokens.
    """

    shift: np.ndarray | jax.Array | tuple[()] = ()
    scale: np.ndarray | jax.Array | tuple[()] = ()


def prepare_streams(streams: Mapping[str, Stream]) -> Prepare:
    """Makes ((raw batches by stream, scaling), key) -> the step's batch: `label`, `row` and views by stream.

    Args:
        streams: the method's streams; their order determines their keys.
    """

    def prepare(fetched: Fetched, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        raws, scaling = fetched
        keys = dict(zip(streams, jax.random.split(key, max(2, len(streams))), strict=False))
        return {name: shown(raw, streams[name], keys[name], scaling) for name, raw in raws.items()}

    def shown(raw, stream, key, scaling):
        views, images = {}, raw.image
        if not isinstance(images, tuple):
            images = (images,) * len(stream.views)
        for number, (name, image) in enumerate(zip(stream.views, images, strict=True)):
            own = jax.random.fold_in(key, _VIEW + number) if number else key
            views[name] = standardize(augment(image, raw.row, own, stream.views[name]), scaling)
        return {**views, "label": raw.label, "row": raw.row}

    return prepare


def evaluation_view(raw: Raw, scaling: Scaling) -> dict[str, jax.Array]:
    """The `image`, `label` and `row` of a raw batch, without random augmentation; runs inside programs.

    Args:
        raw: the batch.
        scaling: from `scaling_of`.
    """
    return {"image": standardize(raw.image, scaling), "label": raw.label, "row": raw.row}


def standardize(inputs: jax.Array, scaling: Scaling) -> jax.Array:
    """Standardises stored inputs [n, ...]; the result has the same shape. Runs inside programs.

    Args:
        inputs: of any of the kinds in `data.kinds`.
        scaling: from `scaling_of`.
    """
    kind = kinds.kind_of(inputs.dtype)
    if kind == kinds.TOKENS:
        return inputs
    if kind == kinds.VECTORS:
        return (inputs - scaling.shift) * scaling.scale
    # One multiplication and one addition per pixel: on a CPU, two divisions cost a small network's step 5%.
    return inputs.astype(jnp.float32) * scaling.scale - scaling.shift


def scaling_of(train: Raw | StreamedSplit, one_unit: bool = False) -> Scaling:
    """Computes how inputs are standardised by the training split; the test split is scaled alike.

    Images get mean 0 and standard deviation 1 per channel, and vectors per column. A column that is constant in
    the training split becomes 0 there. Tokens are left as they are.

    Args:
        train: the training split. Of streamed images, 1,000 evenly spaced ones are read; of vectors, all.
        one_unit: whether the columns of vectors have one unit (`Source.one_unit`): they get mean 0, and one
            number scales all, after which the mean of their variances is 1.
    """
    kind = kinds.kind_of((train if isinstance(train, Raw) else train.read(np.arange(1))).image.dtype)
    if kind == kinds.TOKENS:
        return Scaling()
    if kind == kinds.VECTORS:
        mean, std = column_moments(_chunks(train), one_unit)
        return Scaling(mean, 1 / std)
    rows = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(np.int32))
    mean, std = pixel_moments(train.image if isinstance(train, Raw) else train.read(rows).image)
    scale = 1 / (255 * std)
    return Scaling(mean * (255 * scale), scale)


def _chunks(split: Raw | StreamedSplit) -> Iterator[np.ndarray]:
    """All inputs of a split in the same parts on both input paths, so that sums round alike."""
    for start in range(0, len(split), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(split)), dtype=np.int32)
        yield split.image[rows] if isinstance(split, Raw) else split.read(rows).image
