"""Whether a data set's own training labels are taken to be right."""

from cmwnet_jax.errors import UsageError

TRUTHS = ("auto", "known", "unknown")

_RIGHT = {
    "digits": 10,
    "mnist": 10,
    "fashion_mnist": 10,
    "kmnist": 10,
    "cifar10": 10,
    "cifar100": 100,
    "cifar10_n": 10,
    "cifar100_n": 100,
    "imagenet_lt": 1000,
    "imagenet2012": 1000,
    "imagenet2012_subset/10pct": 1000,
}
_FROM_THE_WEB = {
    "animal10n": 10,
    "webvision": 1000,
    "webvision_mini": 50,
    "web_aircraft": 100,
    "web_bird": 200,
    "web_car": 196,
}

PUBLISHED_CLASSES = {**_RIGHT, **_FROM_THE_WEB}
"""Data set -> C, of the published ones; anything else is files of somebody's own."""


def is_truth_known(name: str, truth: str = "auto", known_as: str = "") -> bool:
    """Whether training labels are right before any bias, so that it can be said which are wrong after it.

    Published benchmarks' are; those from the web are not known to be, nor is anything about files of one's own,
    but where they are said to be a published set.

    Args:
        name: the data set's.
        truth: `known` or `unknown` says it; `auto` goes by the names.
        known_as: the published set that own files are; empty for none.

    Example:
        >>> is_truth_known("mnist"), is_truth_known("image_folder"), is_truth_known("image_folder", "known")
        (True, False, True)
    """
    if truth != "auto":
        return truth == "known"
    return (name if name in PUBLISHED_CLASSES else known_as) in _RIGHT


def check_known_as(known_as: str, num_classes: int) -> None:
    """Checks that a data set can be the published one that it is said to be.

    Args:
        known_as: one of `PUBLISHED_CLASSES`; empty for none.
        num_classes: C.

    Raises:
        UsageError: it has another number of classes.
    """
    if known_as and PUBLISHED_CLASSES[known_as] != num_classes:
        raise UsageError(
            f"data.known_as is {known_as!r}, which has {PUBLISHED_CLASSES[known_as]} classes, but these files "
            f"have {num_classes}: leave it empty, or give that set's files"
        )
