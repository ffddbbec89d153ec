"""From raw pixels to network input: augmentation per view, then standardisation; runs inside programs."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from cmwnet_jax.data.augment import augment, pixel_moments, standardize
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.methods.base import Stream
from cmwnet_jax.train.compiling import Prepare

_SAMPLE = 1000  # images of a streamed split from which moments are computed
_VIEW = 0x76696577  # separates the views' keys from the rows' keys, whose numbers are smaller


def prepare_streams(streams: Mapping[str, Stream], mean: np.ndarray, std: np.ndarray) -> Prepare:
    """Makes (raw batches by stream, key) -> the step's batch: `label`, `row` and the views of each stream.

    Args:
        streams: the method's streams; their order determines their keys.
        mean: [channels] float32, the mean of pixels scaled to [0, 1].
        std: [channels] float32, the standard deviation of the same.
    """

    def prepare(raws: Mapping[str, Raw], key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        keys = dict(zip(streams, jax.random.split(key, max(2, len(streams))), strict=False))
        return {name: shown(raw, streams[name], keys[name]) for name, raw in raws.items()}

    def shown(raw, stream, key):
        views = {}
        for number, (name, change) in enumerate(stream.views.items()):
            own = jax.random.fold_in(key, _VIEW + number) if number else key
            views[name] = standardize(augment(raw.image, raw.row, own, change), mean, std)
        return {**views, "label": raw.label, "row": raw.row}

    return prepare


def evaluation_view(mean: np.ndarray, std: np.ndarray) -> Callable[[Raw], dict[str, jax.Array]]:
    """Makes raw batch -> `image`, `label` and `row`, without random augmentation.

    Args:
        mean, std: as in `prepare_streams`.
    """
    return lambda raw: {"image": standardize(raw.image, mean, std), "label": raw.label, "row": raw.row}


def channel_moments(train: Raw | StreamedSplit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, [channels] float32, of pixels scaled to [0, 1].

    Args:
        train: the training split. From a streamed split, 1,000 evenly spaced images are read.
    """
    if isinstance(train, Raw):
        return pixel_moments(train.image)
    rows = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(np.int32))
    return pixel_moments(train.read(rows).image)
