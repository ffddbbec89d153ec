"""From stored examples to network input: augmentation per view, then standardisation; runs inside programs."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from cmwnet_jax.data import kinds
from cmwnet_jax.data.augment import augment, column_moments, pixel_moments, standardize
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.methods.base import Stream
from cmwnet_jax.train.compiling import Prepare

_SAMPLE = 1000  # images of a streamed split from which moments are computed
_CHUNK = 1000  # vectors that are read at once for their moments
_VIEW = 0x76696577  # separates the views' keys from the rows' keys, whose numbers are smaller

Normalize = Callable[[jax.Array], jax.Array]
"""Stored inputs [n, ...] -> the network's inputs of the same shape; runs inside programs."""


def prepare_streams(streams: Mapping[str, Stream], normalize: Normalize) -> Prepare:
    """Makes (raw batches by stream, key) -> the step's batch: `label`, `row` and the views of each stream.

    Args:
        streams: the method's streams; their order determines their keys.
        normalize: from `normalizer`.
    """

    def prepare(raws: Mapping[str, Raw], key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        keys = dict(zip(streams, jax.random.split(key, max(2, len(streams))), strict=False))
        return {name: shown(raw, streams[name], keys[name]) for name, raw in raws.items()}

    def shown(raw, stream, key):
        views = {}
        for number, (name, change) in enumerate(stream.views.items()):
            own = jax.random.fold_in(key, _VIEW + number) if number else key
            views[name] = normalize(augment(raw.image, raw.row, own, change))
        return {**views, "label": raw.label, "row": raw.row}

    return prepare


def evaluation_view(normalize: Normalize) -> Callable[[Raw], dict[str, jax.Array]]:
    """Makes raw batch -> `image`, `label` and `row`, without random augmentation.

    Args:
        normalize: as in `prepare_streams`.
    """
    return lambda raw: {"image": normalize(raw.image), "label": raw.label, "row": raw.row}


def normalizer(train: Raw | StreamedSplit) -> Normalize:
    """Makes the function that standardises inputs by the training split; the test split has the same one.

    Images get mean 0 and standard deviation 1 per channel, and vectors per column. A column that is constant in
    the training split becomes 0 there. Tokens are left as they are.

    Args:
        train: the training split. Of streamed images, 1,000 evenly spaced ones are read; of vectors, all.
    """
    kind = kinds.kind_of((train if isinstance(train, Raw) else train.read(np.arange(1))).image.dtype)
    if kind == kinds.TOKENS:
        return lambda tokens: tokens
    if kind == kinds.VECTORS:
        mean, std = vector_moments(train)
        return lambda vectors: (vectors - mean) / std
    rows = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(np.int32))
    mean, std = pixel_moments(train.image if isinstance(train, Raw) else train.read(rows).image)
    return lambda images: standardize(images, mean, std)


def vector_moments(train: Raw | StreamedSplit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, [d] float32 each, by which vectors are standardised.

    Args:
        train: the training split, of vectors.
    """
    return column_moments(_chunks(train))


def _chunks(split: Raw | StreamedSplit) -> Iterator[np.ndarray]:
    """All inputs of a split in the same parts on both input paths, so that sums round alike."""
    for start in range(0, len(split), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(split)), dtype=np.int32)
        yield split.image[rows] if isinstance(split, Raw) else split.read(rows).image
