"""Decides whether a data set's own training labels count as right."""

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
"""Published data set -> C; all other names stand for a user's own files."""


def is_truth_known(name: str, truth: str = "auto", known_as: str = "") -> bool:
    """Whether the unbiased training labels are right, so that wrong labels are known after a bias.

    Labels of published benchmarks count as right. Labels from the web do not, nor do those of a user's own
    files, unless these are declared to be a published set.

    Args:
        name: the data set's name.
        truth: `known` or `unknown` decides; `auto` goes by the names.
        known_as: the published set that a user's own files are; empty for none.

    Example:
        >>> is_truth_known("mnist"), is_truth_known("image_folder"), is_truth_known("image_folder", "known")
        (True, False, True)
    """
    if truth != "auto":
        return truth == "known"
    return (name if name in PUBLISHED_CLASSES else known_as) in _RIGHT


def check_known_as(known_as: str, num_classes: int) -> None:
    """Checks that a data set can be the published one that the config says it is.

    Args:
        known_as: one of `PUBLISHED_CLASSES`; empty for none.
        num_classes: C.

    Raises:
        UsageError: the numbers of classes differ.
    """
    if known_as and PUBLISHED_CLASSES[known_as] != num_classes:
        raise UsageError(
            f"data.known_as is {known_as!r}, which has {PUBLISHED_CLASSES[known_as]} classes, but these files "
            f"have {num_classes}: leave it empty, or give that set's files"
        )
