"""Random generators from one seed, one per purpose, so that different draws share no random numbers."""

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """Purposes of random numbers, each with its counters in parentheses."""

    BIAS = 1  # (index of the part in the bias's name)
    HOLD_OUT = 2
    BALANCED_META_SET = 3  # (epoch)
    TRAIN_ORDER = 4  # (epoch)
    META_ORDER = 5  # (epoch)
    TRAIN_CROP = 6  # (step, row; further views of a stream: their number)
    META_CROP = 7  # (epoch, row; as above)
    SHUFFLED_META_CLASSES = 8
    CORRECTED_LABELS = 9
    STREAM_ORDER = 10  # (checksum of the stream's name, epoch)
    STREAM_CROP = 11  # (checksum of the stream's name, step or epoch, row; as above)
    CALIBRATION = 12
    DIVISION = 13  # (epoch)


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """The generator for one purpose and these counters.

    The numbers go into the spawn key instead of the entropy: NumPy pads lists of entropy with zeros, so
    [seed, 1] and [seed, 1, 0] would give the same stream.

    Args:
        seed: the run's seed, not negative.
        purpose: what is drawn.
        *counters: further numbers such as the epoch, not negative.

    Example:
        >>> first, second = (generator(0, Purpose.TRAIN_ORDER, epoch).random() for epoch in (0, 1))
        >>> first != second
        True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), *counters)))
