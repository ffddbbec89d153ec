"""Arrays in an .npz file: vectors of numbers, tokens of text, or images, with their labels."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmwnet_jax.array_files import read_npz, to_float32
from cmwnet_jax.data import kinds
from cmwnet_jax.data.builders import tables
from cmwnet_jax.data.builders.base import LocalBuilder
from cmwnet_jax.data.builders.contents import Contents, InMemory, digest
from cmwnet_jax.data.builders.raw_files import raw_error
from cmwnet_jax.errors import UsageError

_NEEDED = ("train_x", "train_y", "test_x", "test_y")
_OPTIONAL = ("train_true", "ids", "paths", "class_names", "words", "one_unit")
_SHAPES = "[N, d] floats (vectors), [N, length] whole numbers (tokens) or [N, h, w, 1 or 3] uint8 (images)"


class Arrays(LocalBuilder):
    """An .npz file of `train_x`, `train_y`, `test_x` and `test_y`; pickles are never read.

    `x` holds float vectors [N, d], which are standardised when they are used; int tokens [N, length], where 0
    is padding; or images [N, height, width, 1 or 3] uint8. `y` holds labels [N], whole numbers or text.
    Optional: `class_names` [C] text; for the training examples, `train_true` [N], the true labels if some of
    `train_y` are wrong, `ids` [N] (otherwise row numbers) and `paths` [N], which show the examples: paths of
    files, or the texts themselves; for tokens, `words` [V] text, what each number from 0 stands for; for
    vectors, `one_unit`, a single True if their columns have one unit, as principal components have: then one
    number scales all of them.
    """

    WANTS = f"an .npz file of {', '.join(_NEEDED)}, and optionally {', '.join(_OPTIONAL)}"

    @classmethod
    def scan(cls, root: Path) -> Contents:
        """Reads and checks the file.

        Args:
            root: its path.

        Raises:
            UsageError: it cannot be read, an array is missing or unknown, or the arrays do not fit together.
        """
        problem = f"data.raw_dir is {str(root)!r}, which cannot be read as an .npz file"
        remedy = f"write numbers and text alone, e.g. np.asarray(labels, str); {cls.wanted()}"
        arrays = read_npz(root, problem, remedy, text=True)
        _check_names(arrays, root, cls.wanted())
        inputs = _inputs(arrays, root)
        _check_lengths(arrays, root)
        training = {name: arrays[name] for name in ("train_y", "train_true") if name in arrays}
        testing, names = {"test_y": arrays["test_y"]}, _text(arrays, "class_names", root)
        labels, class_names = tables.to_classes(training, testing, names, root)
        given = {"train": labels["train_y"], "test": labels["test_y"]}
        true = given | ({"train": labels["train_true"]} if "train_true" in arrays else {})
        contents = InMemory(
            {split: (x, true[split]) for split, x in inputs.items()},
            class_names,
            key=digest(_parts(arrays)),
            ids={"train": _ids(arrays, root)} if "ids" in arrays else None,
        )
        paths = _text(arrays, "paths", root)
        return tables.WithColumns(
            contents,
            given=given if "train_true" in arrays else None,
            paths=None if paths is None else {"train": paths, "test": [""] * len(inputs["test"])},
            notes=[*tables.no_labels(class_names), *_rounding(arrays["train_x"])],
            facts=_facts(inputs, _text(arrays, "words", root), root) | _unit(arrays, inputs, root),
        )


def _ids(arrays: Mapping[str, np.ndarray], root: Path) -> list[str]:
    ids = [str(name) for name in arrays["ids"].tolist()]
    tables.check_ids(ids, "ids", root)
    return ids


def _facts(inputs: Mapping[str, np.ndarray], words: list[str] | None, root: Path) -> dict[str, Any]:
    """Of tokens, their number, and what each stands for if that is known."""
    if kinds.kind_of(inputs["train"].dtype) != kinds.TOKENS:
        if words is not None:
            raise raw_error(root, "which has an array words, but no tokens: take it out")
        return {}
    largest = max(int(tokens.max()) for tokens in inputs.values())
    if words is None:
        return {"vocabulary": 1 + largest}
    if len(words) <= largest:
        raise raw_error(
            root, f"where words has {len(words)} entries, expected one for each token from 0 to {largest}"
        )
    return {"vocabulary": len(words), "words": words}


def _unit(arrays: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], root: Path) -> dict[str, Any]:
    """Of vectors whose columns have one unit, that fact."""
    if "one_unit" not in arrays:
        return {}
    value = arrays["one_unit"]
    if value.shape != () or value.dtype != bool:
        raise raw_error(
            root, f"where one_unit is {value.dtype} of shape {value.shape}, expected a single True or False"
        )
    if kinds.kind_of(inputs["train"].dtype) != kinds.VECTORS:
        raise raw_error(root, "which has an array one_unit, but no vectors: take it out")
    return {"one_unit": True} if value else {}


def _parts(arrays: Mapping[str, np.ndarray]):
    """The bytes that identify the contents, whatever the file's compression."""
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype} {array.shape}\n".encode()
        yield np.ascontiguousarray(array).data if array.dtype.kind != "U" else "\n".join(array.flat).encode()


def _check_names(arrays: Mapping[str, np.ndarray], root: Path, wanted: str) -> None:
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        has = ", ".join(arrays) or "nothing"
        raise raw_error(root, f"which has {has}, and no {', '.join(missing)}: {wanted}")
    unknown = [name for name in arrays if name not in (*_NEEDED, *_OPTIONAL)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], (*_NEEDED, *_OPTIONAL), 1)
        hint = f"did you mean {near[0]!r}?" if near else "take it out"
        known = ", ".join((*_NEEDED, *_OPTIONAL))
        raise raw_error(root, f"which has an array {unknown[0]!r}, expected some of {known}: {hint}")


def _check_lengths(arrays: Mapping[str, np.ndarray], root: Path) -> None:
    partners = {"train_x": ("train_y", "train_true", "ids", "paths"), "test_x": ("test_y",)}
    for x, others in partners.items():
        for other in (name for name in others if name in arrays):
            if arrays[other].shape != arrays[x].shape[:1]:
                raise raw_error(
                    root,
                    f"where {other} has the shape {arrays[other].shape} and {x} {arrays[x].shape}, expected "
                    f"one entry per example, {arrays[x].shape[:1]}: write both from the same examples",
                )


def _inputs(arrays: Mapping[str, np.ndarray], root: Path) -> dict[str, np.ndarray]:
    """`train` and `test` inputs in the dtype of their kind."""
    inputs = {}
    for split in ("train", "test"):
        x = arrays[f"{split}_x"]
        if not x.size:
            raise raw_error(root, f"where {split}_x is empty, of shape {x.shape}, expected {_SHAPES}")
        inputs[split] = _input(f"{split}_x", x, root)
    train, test = inputs["train"], inputs["test"]
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise raw_error(
            root,
            f"where train_x is {train.dtype} of {train.shape[1:]} per example and test_x {test.dtype} of "
            f"{test.shape[1:]}, expected the same: make both in the same way",
        )
    return inputs


def _input(name: str, x: np.ndarray, root: Path) -> np.ndarray:
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3):
        return x
    if x.ndim == 2 and x.dtype.kind in "iu":
        try:
            return kinds.check_tokens(name, x)
        except UsageError as error:
            raise raw_error(root, f"where {error}") from error
    if x.ndim == 2 and x.dtype.kind not in "bU":
        problem = f"data.raw_dir is {str(root)!r}, where {name} cannot be used"
        return to_float32({name: x}, problem, "scale it")[name]
    raise raw_error(root, f"where {name} is {x.dtype} of shape {x.shape}, expected {_SHAPES}")


def _rounding(x: np.ndarray) -> list[str]:
    """A sentence about vectors that lose detail as float32; none for images and tokens."""
    is_vectors = x.ndim == 2 and x.dtype.kind == "f"
    return (
        kinds.rounding_notes((str(number), column) for number, column in enumerate(x.T)) if is_vectors else []
    )


def _text(arrays: Mapping[str, np.ndarray], name: str, root: Path) -> list[str] | None:
    """An optional list of text; numbers are converted."""
    if name not in arrays:
        return None
    found = arrays[name]
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iuU":
        raise raw_error(root, f"where {name} is {found.dtype} of shape {found.shape}, expected a list of text")
    return [str(value) for value in found.tolist()]
