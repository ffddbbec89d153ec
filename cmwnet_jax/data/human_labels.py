"""Human labels, e.g. CIFAR-10N's and CIFAR-100N's, in the order of a data set's rows."""

from pathlib import Path

import numpy as np

from cmwnet_jax import array_files
from cmwnet_jax.data.sources import Dataset, check_labels
from cmwnet_jax.errors import UsageError

TRUE_LABEL = "clean_label"

# CIFAR-N's files are pickles, which can run any code; they are never read here.
_CONVERSIONS = {
    ".pt": "import numpy, torch; numpy.savez('labels.npz', **torch.load('{}', weights_only=False))",
    ".npy": "import numpy; numpy.savez('labels.npz', **numpy.load('{}', allow_pickle=True).item())",
}


def human_labels(path: str, dataset: Dataset) -> dict[str, np.ndarray]:
    """Reads all sets of human labels and aligns them with the rows of `dataset.train`.

    The file stores the labels in CIFAR's original order, with the true labels as `clean_label`. If the data
    set has the same order, its labels are equal row by row. If it is grouped by class, as an image folder is,
    the image of class c whose file name has the number k belongs to the k-th `clean_label` c. If both rules
    apply and differ, that is an error.

    Args:
        path: an `.npz` of [N] integer arrays by name: `clean_label` and any others, e.g. `aggre_label`,
            `random_label1`, `worse_label` or `noisy_label`. Empty takes the data set's own columns, as in
            tfds's `cifar10_n` and `cifar100_n`.
        dataset: the data set that the labels belong to.

    Returns:
        Name -> [N] int32 in [0, C), without `clean_label`.

    Raises:
        UsageError: the file cannot be used, a label is not a class, its clean labels are not the data set's, or
            the order is not certain.
    """
    if not path:
        return _own_columns(dataset)
    arrays = _read(path)
    places = _places(path, arrays.pop(TRUE_LABEL), dataset)
    return {name: labels[places] for name, labels in _checked(path, arrays, dataset).items()}


def _own_columns(dataset: Dataset) -> dict[str, np.ndarray]:
    columns = dataset.train.columns
    found = {name: c for name, c in columns.items() if name.rstrip("0123456789").endswith("_label")}
    found.pop("coarse_label", None)  # CIFAR-100's superclass, which no annotator gave
    if not found:
        raise UsageError(
            f"the path of the human labels is empty and {dataset.name!r} has none of its own: name an .npz "
            "file of them, or use cifar10_n or cifar100_n"
        )
    return _checked(dataset.name, found, dataset)


def _checked(where: str, arrays: dict[str, np.ndarray], dataset: Dataset) -> dict[str, np.ndarray]:
    for name, labels in arrays.items():
        check_labels(labels, dataset.num_classes, f"{where}: {name}")
        if len(labels) != len(dataset.train):
            raise UsageError(
                f"{where}: {name} has {len(labels)} labels, expected one for each of {dataset.name}'s "
                f"{len(dataset.train)} training images"
            )
    return {name: labels.astype(np.int32) for name, labels in arrays.items()}


def check_human_labels(path: str) -> tuple[int, list[str]]:
    """Checks what `human_labels` does without a data set: as many integers of each name.

    Args:
        path: as in `human_labels`.

    Returns:
        The number of images, and the names besides `clean_label`.

    Raises:
        UsageError: the file cannot be used.
    """
    arrays = _read(path)
    clean = arrays.pop(TRUE_LABEL)
    for name, labels in {TRUE_LABEL: clean, **arrays}.items():
        if labels.ndim != 1 or labels.shape != clean.shape or labels.dtype.kind not in "iu":
            raise UsageError(
                f"{path!r}: {name} has the shape {labels.shape} and the type {labels.dtype}, expected one "
                f"integer per image, as in {TRUE_LABEL}: name another file"
            )
    return len(clean), list(arrays)


def _read(path: str) -> dict[str, np.ndarray]:
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        made = _CONVERSIONS.get(path.suffix, "")
        hint = f", which python -c {made.format(str(path))!r} makes of a published file that you trust"
        raise UsageError(f"{str(path)!r} is not an .npz file: name one of human labels{hint if made else ''}")
    problem = f"{str(path)!r} is not a readable .npz file"
    arrays = array_files.read_npz(path, problem, "name one of human labels")
    if TRUE_LABEL not in arrays:
        raise UsageError(
            f"{str(path)!r} has {', '.join(arrays) or 'nothing'}, expected {TRUE_LABEL} too, which says that "
            "the labels are about these images"
        )
    return arrays


def _places(path: str, clean: np.ndarray, dataset: Dataset) -> np.ndarray:
    """[N] int, the position in the file of each row's label."""
    labels = dataset.train.labels
    clean = _checked(path, {TRUE_LABEL: clean}, dataset)[TRUE_LABEL]
    if np.array_equal(clean, labels):
        rows = np.arange(len(labels))
        try:
            numbered = _by_number(path, clean, dataset)
        except UsageError:  # other names say nothing of the order
            return rows
        if not np.array_equal(numbered, rows):
            raise UsageError(
                f"{path}: the clean labels are in {dataset.name}'s order and grouped by class, but the numbers "
                f"in its file names are in another one (e.g. 10 before 2), so an image's label is not certain: "
                f"give all numbers as many digits, e.g. 0002, or use the published file, in CIFAR's order"
            )
        return rows
    counts = [np.bincount(given, minlength=dataset.num_classes) for given in (clean, labels)]
    if not np.array_equal(*counts):
        c = int(np.flatnonzero(counts[0] != counts[1])[0])
        raise UsageError(
            f"{path}: {counts[0][c]} clean labels are class {c}, {dataset.class_names[c]!r}, of which "
            f"{dataset.name} has {counts[1][c]} images: these human labels are about other images"
        )
    return _by_number(path, clean, dataset)


def _by_number(path: str, clean: np.ndarray, dataset: Dataset) -> np.ndarray:
    """[N] int, each row's place by the number in its file name; raises a UsageError if names are no numbers."""
    labels = dataset.train.labels
    places = np.empty(len(labels), np.int64)
    ids = np.full(len(labels), "") if dataset.train.ids is None else dataset.train.ids
    for c in range(dataset.num_classes):
        rows = np.flatnonzero(labels == c)
        stems = [Path(name).stem for name in ids[rows]]
        numbers = np.array([int(stem) if stem.isdecimal() else -1 for stem in stems], int)
        if not np.array_equal(np.sort(numbers), np.arange(len(rows))):
            raise UsageError(
                f"{path}: the clean labels are not in {dataset.name}'s order, and the images of class "
                f"{dataset.class_names[c]!r} are not named by the numbers 0 to {len(rows) - 1} of their place "
                f"among the class's (first {stems[0]!r}): the labels cannot be aligned"
            )
        places[rows] = np.flatnonzero(clean == c)[numbers]
    return places
