"""A second split to test on: another data set's, with classes matched by name, or another one of the set."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import sources
from cmwnet_jax.data.prepare import options_of
from cmwnet_jax.errors import UsageError, unknown_name

SPLIT = "also_test"
"""Its name in `Data.splits`."""


@dataclasses.dataclass(frozen=True, eq=False)
class AlsoTest:
    """The examples of a second test split whose classes the training set has.

    Attributes:
        name: its name in metrics: that of the data set or split, with an underscore for all but letters and
            digits.
        source: the data set that it is in.
        split: its name there.
        of_class: [classes of that data set] int32, the training set's class of each; -1 where it has none.
        ids: [M] int64, rows of the split, ascending.
        labels: [M] int32, classes of the training set.
    """

    name: str
    source: sources.Source
    split: str
    of_class: np.ndarray
    ids: np.ndarray
    labels: np.ndarray

    def in_order_of(self, labels: np.ndarray) -> "AlsoTest":
        """The same examples in another order of the split.

        Args:
            labels: [examples of the split] int, classes of the other data set in that order.
        """
        ids, labels = _of_known_classes(self.of_class, labels)
        return dataclasses.replace(self, ids=ids, labels=labels)

    @property
    def num_classes(self) -> int:
        """The number of classes that have examples."""
        return len(np.unique(self.labels))


def open_also_test(config: ConfigDict, source: sources.Source) -> AlsoTest | None:
    """Opens the split that `data.also_test` names, without reading its inputs; None for no second split.

    Args:
        config: the run's config.
        source: the data set of the run.

    Raises:
        UsageError: there is no such split or set, it is the one that the run tests on already, its raw files
            cannot be used, its inputs were fitted on texts of its own, or it has no class of the training set.
    """
    wanted, raw_dir = config.data.also_test, config.data.also_test_raw_dir
    if not wanted:
        return None
    others = [split for split in source.splits if split not in ("train", source.test_split)]
    if wanted in source.splits and not raw_dir:
        other, split = source, wanted
    elif wanted in sources.DATASETS:
        with under_its_fields():
            options = options_of(config.data, wanted)
            other = sources.open(wanted, config.data.dir, raw_dir, options=options, needed=())
        _check_same_inputs(wanted, other, source)
        split = other.test_split
    else:
        raise unknown_name("data.also_test", wanted, (*others, *sources.DATASETS))
    if (other.folder, split) in [(source.folder, own) for own in ("train", source.test_split)]:
        raise UsageError(
            f"data.also_test is {wanted!r}, which is the split {split!r} that the run trains or tests on "
            f"already, expected another one: {_choice(others)}"
        )
    of_class = found_classes(wanted, other.class_names, source.class_names)
    name, labels = re.sub(r"[^A-Za-z0-9]", "_", wanted), sources.read_labels(other, split)
    second = AlsoTest(name, other, split, of_class, *_of_known_classes(of_class, labels))
    if not len(second.ids):
        raise _none_matches(wanted, other.class_names, source.class_names)
    return second


def _of_known_classes(of_class: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`ids` and `labels` of the examples whose class the training set has."""
    found = of_class[labels]
    ids = np.flatnonzero(found >= 0)
    return ids, found[ids]


def _check_same_inputs(wanted: str, other: sources.Source, source: sources.Source) -> None:
    """Texts become numbers by their own set's training texts, so those of two sets mean different things."""
    own_basis = other.folder != source.folder and (other.one_unit or source.one_unit)
    if own_basis or (other.words and source.words and tuple(other.words) != tuple(source.words)):
        raise UsageError(
            f"data.also_test is {wanted!r}, whose inputs were fitted on its own training texts, expected "
            "inputs that mean what the training set's do: make its texts a further split of that set's table"
        )


def found_classes(wanted: str, names: Sequence[str], trained: Sequence[str]) -> np.ndarray:
    """`matched_classes`, of which there must be one.

    Args:
        wanted: the value of `data.also_test`, for the message.
        names: class names of the second set.
        trained: those of the training set.

    Raises:
        UsageError: no class has a name of the training set's.
    """
    of_class = matched_classes(names, trained)
    if (of_class < 0).all():
        raise _none_matches(wanted, names, trained)
    return of_class


def _none_matches(wanted: str, names: Sequence[str], trained: Sequence[str]) -> UsageError:
    return UsageError(
        f"data.also_test is {wanted!r}, none of whose classes, e.g. {names[0]!r}, has the name of one of the "
        f"training set's, e.g. {trained[0]!r}: give them the same names or WordNet identifiers (of WebVision, "
        f"info/synsets.txt has them)"
    )


@contextlib.contextmanager
def under_its_fields() -> Iterator[None]:
    """Context manager that names the fields of the second set in the messages about opening it."""
    try:
        yield
    except UsageError as error:
        said = str(error).replace("data.raw_dir", "data.also_test_raw_dir")
        raise UsageError(said.replace("data.name", "data.also_test")) from error


def _choice(others: Sequence[str]) -> str:
    return f"take {' or '.join(others)}, or another set" if others else "name another set, or leave it empty"


def matched_classes(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Finds the classes of one data set in another by their names.

    Names that begin with a WordNet identifier match by it; others match if they are the same.

    Args:
        names: names of the classes to find.
        wanted: C names, all different.

    Returns:
        [len(names)] int32: the place in `wanted`, -1 where there is none.

    Example:
        >>> matched_classes(["n02012849", "n01440764", "cat"], ["cat", "n01440764 tench, Tinca tinca"]).tolist()
        [-1, 1, 0]
    """
    places = {_key(name): place for place, name in enumerate(wanted)}
    return np.array([places.get(_key(name), -1) for name in names], np.int32)


def _key(name: str) -> str:
    synset = re.match(r"n\d{8}\b", name)
    return synset[0] if synset else name
