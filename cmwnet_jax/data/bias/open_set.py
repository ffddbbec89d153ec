"""Open-set noise: images from another data set with labels of this one (B.4)."""

import dataclasses
from typing import NamedTuple

import numpy as np

from cmwnet_jax.data.bias.labels import BiasedLabels, Seed, check_rate, exact_count
from cmwnet_jax.errors import UsageError


class ForeignSet(NamedTuple):
    """The data set that open-set noise takes images from.

    Attributes:
        name: the data set's name.
        num_examples: number of images in its training split.
    """

    name: str
    num_examples: int


def open_set(labels: BiasedLabels, rate: float, foreign: ForeignSet, seed: Seed) -> BiasedLabels:
    """Replaces exactly `floor(rate * N)` images by another data set's; labels stay (B.4, Table 11).

    The new images belong to none of the classes: their true label is -1, and they count as wrong.

    Args:
        labels: the current labels, all with their own images.
        rate: share of replaced images, in [0, 1].
        foreign: the data set of the new images, each of which is used at most once.
        seed: a seed or generator.

    Raises:
        UsageError: the rate is not in [0, 1], the other data set has too few images, or images have already
            been replaced.
    """
    check_rate("open_set", rate)
    if labels.foreign is not None:
        raise UsageError("open_set: images have been replaced already, expected one open-set noise in a bias")
    size = exact_count(rate, len(labels.ids))
    if size > foreign.num_examples:
        raise UsageError(
            f"open_set: {size} images are to be replaced, but {foreign.name} has {foreign.num_examples}: "
            f"lower the rate or use a larger data set"
        )
    rng = np.random.default_rng(seed)
    replaced = rng.permutation(len(labels.ids))[:size]
    shown = np.full(len(labels.ids), -1, np.int64)
    shown[replaced] = rng.permutation(foreign.num_examples)[:size]
    true = np.where(shown >= 0, np.int32(-1), labels.true)
    return dataclasses.replace(labels, true=true, foreign=shown, foreign_dataset=foreign.name)


def shown_images(
    labels: BiasedLabels, images: np.ndarray, foreign_images: np.ndarray | None = None
) -> np.ndarray:
    """The images that training sees.

    Args:
        labels: the examples.
        images: [training split, height, width, channels] of the examples' data set.
        foreign_images: the images of `labels.foreign_dataset`, if there is one; same axes.

    Returns:
        [N, height, width, channels], the dtype of `images`.

    Raises:
        UsageError: the foreign images are missing or have another shape or dtype.
    """
    shown = images[labels.ids]
    if labels.foreign is None:
        return shown
    if foreign_images is None:
        raise UsageError(f"shown_images: expected foreign_images, the images of {labels.foreign_dataset}")
    if foreign_images.shape[1:] != images.shape[1:] or foreign_images.dtype != images.dtype:
        raise UsageError(
            f"shown_images: {labels.foreign_dataset} has images of shape {foreign_images.shape[1:]} and dtype "
            f"{foreign_images.dtype}, expected {images.shape[1:]} and {images.dtype}: use a similar set"
        )
    shown[labels.is_foreign] = foreign_images[labels.foreign[labels.is_foreign]]
    return shown
