"""Labels changed by pseudo-labels: the arrays of corrected.npz, which the report plots (Fig. 6, 16, 17)."""

from collections.abc import Iterator

import numpy as np

from cmwnet_jax.data import kinds
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.load import Data
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.methods.measure import BesideGiven, beside_given

_OF_A_CLASS = 8  # as many as a row of the report's sheets has
_CLASSES = 50  # with more changed examples than this, those of others are not drawn
_LEAST = 40  # examples of few classes, if there are so many
_PART = 1 << 16  # rows compared at a time
_THUMBNAIL_PIXELS = 96  # the longer side, at most


def correction_arrays(data: Data, pseudo_labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Counts the labels that the run has changed and draws some of these examples at random.

    A label counts as changed if its pseudo-label's most likely class differs from the given class. Up to 8
    examples are drawn of each given class (40 by their number, if there are fewer than 5), or of 50 of them if
    there are more, so that rare classes are shown too; only the counts say how frequent changes are.

    Args:
        data: the run's data.
        pseudo_labels: [N, C] float, an array or something else with a length whose slices are arrays; a row of
            zeros means that the example has no pseudo-label yet.
        seed: the run's seed.

    Returns:
        For n <= 400 examples, sorted by given class: of image sets, `images` [n, h, w, channels] uint8, at most
        96 pixels per side; `ids` [n] int64; `given`, `new` and `true` [n] int32; and `probability` [n] float32,
        the pseudo-label's probability of the new class. `true` is -1 if `truth_known` is False or the image is
        of no class. For the whole set: `num_labels`, `num_wrong` (given labels), `num_changed` and
        `num_changed_rightly`, where the two that need the truth are -1 if it is not known; `truth_known`; and
        `class_names` [C].
    """
    biased, rng = data.biased, generator(seed, Purpose.CORRECTED_LABELS)
    new, probability = _most_likely(pseudo_labels)
    changed = np.flatnonzero((new != biased.given) & (probability > 0))
    classes = rng.permutation(np.unique(biased.given[changed]))[:_CLASSES]
    shown = changed[np.isin(biased.given[changed], classes)]
    most = max(_OF_A_CLASS, _LEAST // max(1, len(classes)))
    rows = shown[few_of_each(biased.given[shown], most, rng)]
    rows = rows[np.lexsort((rows, new[rows], biased.given[rows]))]
    known = biased.truth_known
    return {
        **({"images": _thumbnails(data, rows)} if data.kind == kinds.IMAGES else {}),
        "ids": biased.ids[rows],
        "given": biased.given[rows].astype(np.int32),
        "new": new[rows],
        "true": (biased.true[rows] if known else np.full(len(rows), -1)).astype(np.int32),
        "probability": probability[rows],
        "num_labels": np.array(len(biased.ids)),
        "num_wrong": np.array(np.sum(biased.is_wrong) if known else -1),
        "num_changed": np.array(len(changed)),
        "num_changed_rightly": np.array(np.sum(new[changed] == biased.true[changed]) if known else -1),
        "truth_known": np.array(known),
        "class_names": np.array(data.class_names),
    }


def pseudo_label_arrays(data: Data, pseudo_labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the pseudo-labels say of the given labels: the arrays of pseudo_labels.npz, for the audit.

    Args:
        data: the run's data.
        pseudo_labels: as in `correction_arrays`.

    Returns:
        The fields of `BesideGiven`, [N] each in the order of weights.npz.
    """
    parts = [beside_given(pseudo_labels[part], data.biased.given[part]) for part in _parts(len(pseudo_labels))]
    fields = BesideGiven(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    return fields._asdict()


def _parts(size: int) -> Iterator[slice]:
    return (slice(first, first + _PART) for first in range(0, size, _PART))


def _most_likely(pseudo_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most likely class of each row, [N] int32, and its probability, [N] float32."""
    classes, highest = [], []
    for part in _parts(len(pseudo_labels)):
        rows = np.asarray(pseudo_labels[part])
        classes.append(np.argmax(rows, axis=1))
        highest.append(np.max(rows, axis=1))
    return np.concatenate(classes).astype(np.int32), np.concatenate(highest).astype(np.float32)


def few_of_each(labels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the indices of a few random examples of each class, without replacement.

    Args:
        labels: [N] int.
        most: the maximum number of a class.
        rng: the random generator.

    Returns:
        [n] int64 in [0, N), ascending by class.
    """
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    turn = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return by_class[turn < most]


def _thumbnails(data: Data, rows: np.ndarray) -> np.ndarray:
    """[n, h, w, channels] uint8: the network's input images, reduced in size and not augmented."""
    sides = data.image_shape[:2]
    images = data.splits["train"].take(rows).image if len(rows) else np.zeros((0, *data.image_shape), np.uint8)
    if max(sides) <= _THUMBNAIL_PIXELS:
        return images
    fit = Fit(resize_pixels=max(1, min(sides) * _THUMBNAIL_PIXELS // max(sides)))
    shape = fit(np.zeros(data.image_shape, np.uint8)).shape
    return np.array([fit(image) for image in images], np.uint8).reshape(len(rows), *shape)
