"""Maps of similar classes per data set, which asymmetric noise flips along."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cmwnet_jax.errors import UsageError

Flips = Mapping[int, int]

# CIFAR-100's 20 superclasses of five. Its fine class names in label order, which is alphabetical, are the
# sorted names of all of them.
CIFAR100_SUPERCLASSES: Mapping[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def cifar100_coarse_of_fine() -> np.ndarray:
    """[100] int32, the superclass in [0, 20) of each of CIFAR-100's classes, both in alphabetical order."""
    fine = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)
    coarse = np.empty(len(fine), np.int32)
    for index, superclass in enumerate(sorted(CIFAR100_SUPERCLASSES)):
        coarse[[fine.index(name) for name in CIFAR100_SUPERCLASSES[superclass]]] = index
    return coarse


def next_within(group_of_class: np.ndarray) -> dict[int, int]:
    """Flips each class to the next one in its group, and the last to the first.

    Args:
        group_of_class: [C] int; a class alone in its group is not flipped.

    Example:
        >>> next_within(np.array([0, 1, 0, 0]))
        {0: 2, 2: 3, 3: 0}
    """
    flips = {}
    for group in np.unique(group_of_class):
        members = np.flatnonzero(group_of_class == group).tolist()
        if len(members) > 1:
            flips |= dict(zip(members, members[1:] + members[:1], strict=True))
    return flips


# Truck -> automobile, bird -> airplane, cat -> dog, deer -> horse. The authors' code keeps dogs; DivideMix's
# flips them to cats as well, so 0.5 r of all labels become wrong instead of 0.4 r (Q22).
_CIFAR10 = {9: 1, 2: 0, 3: 5, 4: 7}
_CIFAR10_DIVIDEMIX = {**_CIFAR10, 5: 3}

ASYMMETRIC_FLIPS: Mapping[str, Flips] = {
    # Four rarer digits (under `long_tail`, which removes more examples of higher classes) become the more
    # common digit that each resembles, as an annotator would do who has seen far more of the common one.
    "digits": {6: 5, 7: 1, 8: 3, 9: 4},
    # 7 -> 1, 2 -> 7, 3 -> 8, 5 <-> 6: the map of the papers on forward correction and PLC.
    "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5},
    # CIFAR-10's indices applied to this set: pullover -> T-shirt, ankle boot -> trouser, dress -> sandal,
    # coat -> sneaker. Only the first pair looks alike.
    "fashion_mnist": _CIFAR10,
    "cifar10": _CIFAR10,
    # The published generator for CIFAR-100 is unknown; this is the usual superclass rule (Q25).
    "cifar100": next_within(cifar100_coarse_of_fine()),
}

DIVIDEMIX_FLIPS: Mapping[str, Flips] = {"cifar10": _CIFAR10_DIVIDEMIX}

PLC_FLIPS: Mapping[str, Flips] = {
    "cifar10": _CIFAR10_DIVIDEMIX,
    # Blocks of five *alphabetical* neighbours, which are not CIFAR-100's superclasses: the rule behind the
    # hybrids of Table 4 (Q24).
    "cifar100": next_within(np.arange(100) // 5),
}


_DIGITS = tuple(map(str, range(10)))

CLASS_NAMES: Mapping[str, Sequence[str]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names),
}
"""Published class names of the data sets that have maps, in the label order of the maps."""


def shown_names(class_names: Sequence[str], known_as: str) -> tuple[str, ...]:
    """Class names to show: the published ones, if a published set's files have none but its numbers.

    Args:
        class_names: the C names of the files, in label order.
        known_as: the published data set, empty for none.

    Example:
        >>> shown_names([str(c) for c in range(10)], "cifar10")[:3]
        ('airplane', 'automobile', 'bird')
    """
    published = CLASS_NAMES.get(known_as, ())
    numbers = [str(c) for c in range(len(published))]
    return tuple(published if list(class_names) == numbers else class_names)


# Spellings in common copies: PyTorch's tutorials, and lists of CIFAR-100's classes with a letter missing.
_OTHER_SPELLINGS = {"plane": "airplane", "car": "automobile", "cra": "crab", "tshirt": "tshirttop"}


def flips_of(
    kind: str,
    maps: Mapping[str, Flips],
    dataset: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> Flips:
    """A data set's map of similar classes.

    Args:
        kind: the bias's name, for the error.
        maps: data set name -> flips.
        dataset: the data set's name.
        num_classes: C of the labels that will be flipped.
        class_names: the C names of these labels in any order, as published or as numbers; None for the
            published order.

    Returns:
        Flips between the labels of `class_names`.

    Raises:
        UsageError: there is no map for this data set, or the classes do not match it.
    """
    if dataset not in maps:
        raise UsageError(
            f"bias is {kind}, but {dataset!r} has no map of similar classes for it: use one of "
            f"{', '.join(maps)}, or asymmetric_noise with flips of your own"
        )
    published = CLASS_NAMES[dataset]
    if num_classes != len(published):
        raise UsageError(
            f"bias is {kind}, whose map of similar classes for {dataset!r} is of {len(published)} classes, but "
            f"the data set has {num_classes}: use asymmetric_noise with flips of your own, or another bias"
        )
    if class_names is None:
        return maps[dataset]
    label_of = _labels_by_published(kind, dataset, class_names)
    return {label_of[source]: label_of[target] for source, target in maps[dataset].items()}


def _labels_by_published(kind: str, dataset: str, class_names: Sequence[str]) -> list[int]:
    """[C], the label in `class_names` of each published class."""
    given = [_plain(name) for name in class_names]
    for names in (CLASS_NAMES[dataset], range(len(class_names))):
        plain = [_plain(str(name)) for name in names]
        if sorted(plain) == sorted(given):
            return [given.index(name) for name in plain]
    known = {_plain(name) for name in CLASS_NAMES[dataset]}
    strange = [name for name, plain in zip(class_names, given, strict=True) if plain not in known]
    found = (
        f"{len(strange)} of the {len(class_names)} class names are none of them"
        if strange
        else "some are twice"
    )
    raise UsageError(
        f"bias is {kind}, whose map of similar classes goes by the class names of {dataset!r} "
        f"({', '.join(CLASS_NAMES[dataset][:3])}, ...), but {found}, e.g. {(strange or class_names)[0]!r}: "
        f"give the classes these names, or their numbers from 0, or use another bias"
    )


def _plain(name: str) -> str:
    """Removes differences in spelling from a class name; for `class_07`, gives the number."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    numbered = re.fullmatch("(?:class|label)?0*([0-9]+)", plain)
    return numbered[1] if numbered else _OTHER_SPELLINGS.get(plain, plain)
