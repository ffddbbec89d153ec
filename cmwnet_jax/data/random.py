"""Random generators of one seed, one per purpose, so that no two draws of a run share random numbers."""

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What random numbers are drawn for; the counters that go with each are in parentheses."""

    BIAS = 1  # (place of the part in the bias's name)
    HOLD_OUT = 2
    BALANCED_META_SET = 3  # (epoch)
    TRAIN_ORDER = 4  # (epoch)
    META_ORDER = 5  # (epoch)
    TRAIN_CROP = 6  # (step, row)
    META_CROP = 7  # (epoch, row)
    SHUFFLED_META_CLASSES = 8
    CORRECTED_LABELS = 9
    STREAM_ORDER = 10  # (checksum of the stream's name, epoch)
    STREAM_CROP = 11  # (checksum of the stream's name, step or epoch, row)


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """The generator of one purpose and place.

    The numbers go into the spawn key, not into a list of entropy: NumPy pads such a list with zeros, so
    that [seed, 1] and [seed, 1, 0] would be one stream.

    Args:
        seed: of the run, not negative.
        purpose: what is drawn.
        *counters: where, each not negative.

    Example:
        >>> first, second = (generator(0, Purpose.TRAIN_ORDER, epoch).random() for epoch in (0, 1))
        >>> first != second
        True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), *counters)))
