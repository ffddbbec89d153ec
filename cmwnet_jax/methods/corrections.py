"""Labels changed by pseudo-labels: the arrays of corrected.npz, which the report plots (Fig. 6, 16)."""

import numpy as np

from cmwnet_jax.data import kinds
from cmwnet_jax.data.load import Data
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.data.streaming import Fit
from cmwnet_jax.methods.measure import BesideGiven, beside_given

_SHOWN = 40
_PART = 1 << 16  # rows compared at a time
_THUMBNAIL_PIXELS = 96  # the longer side, at most


def correction_arrays(data: Data, pseudo_labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Counts the labels that the run has changed and draws some of these examples at random.

    A label counts as changed if its pseudo-label's most likely class differs from the given class. Examples
    are drawn from the given classes in turn, so that rare classes are shown too; only the counts say how
    frequent changes are.

    Args:
        data: the run's data.
        pseudo_labels: [N, C] float; a row of zeros means that the example has no pseudo-label yet.
        seed: the run's seed.

    Returns:
        For n <= 40 examples, sorted by given class: of image sets, `images` [n, h, w, channels] uint8, at most
        96 pixels per side; `ids` [n] int64; `given`, `new` and `true` [n] int32; and `probability` [n] float32,
        the pseudo-label's probability of the new class. `true` is -1 if `truth_known` is False or the image is
        of no class. For the whole set: `num_labels`, `num_wrong` (given labels), `num_changed` and
        `num_changed_rightly`, where the two that need the truth are -1 if it is not known; `truth_known`; and
        `class_names` [C].
    """
    biased = data.biased
    new = np.argmax(pseudo_labels, axis=1).astype(np.int32)
    changed = np.flatnonzero((new != biased.given) & (np.max(pseudo_labels, axis=1) > 0))
    chosen = spread_over_classes(biased.given[changed], _SHOWN, generator(seed, Purpose.CORRECTED_LABELS))
    rows = changed[chosen]
    rows = rows[np.lexsort((rows, new[rows], biased.given[rows]))]
    known = biased.truth_known
    return {
        **({"images": _thumbnails(data, rows)} if data.kind == kinds.IMAGES else {}),
        "ids": biased.ids[rows],
        "given": biased.given[rows].astype(np.int32),
        "new": new[rows],
        "true": (biased.true[rows] if known else np.full(len(rows), -1)).astype(np.int32),
        "probability": pseudo_labels[rows, new[rows]].astype(np.float32),
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
        pseudo_labels: [N, C] float; a row of zeros means that the example has no pseudo-label yet.

    Returns:
        The fields of `BesideGiven`, [N] each in the order of weights.npz.
    """
    parts = [
        beside_given(pseudo_labels[first : first + _PART], data.biased.given[first : first + _PART])
        for first in range(0, len(pseudo_labels), _PART)
    ]
    fields = BesideGiven(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    return fields._asdict()


def spread_over_classes(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws indices at random without replacement, one from each class in turn.

    Args:
        labels: [N] int.
        size: the maximum number of indices.
        rng: the random generator.

    Returns:
        [min(size, N)] int64 in [0, N).
    """
    order = rng.permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    ordered = labels[order][by_class]
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return order[np.argsort(turn, kind="stable")[:size]]


def _thumbnails(data: Data, rows: np.ndarray) -> np.ndarray:
    """[n, h, w, channels] uint8: the network's input images, reduced in size and not augmented."""
    sides = data.image_shape[:2]
    images = data.splits["train"].take(rows).image if len(rows) else np.zeros((0, *data.image_shape), np.uint8)
    if max(sides) <= _THUMBNAIL_PIXELS:
        return images
    fit = Fit(resize_pixels=max(1, min(sides) * _THUMBNAIL_PIXELS // max(sides)))
    shape = fit(np.zeros(data.image_shape, np.uint8)).shape
    return np.array([fit(image) for image in images], np.uint8).reshape(len(rows), *shape)
