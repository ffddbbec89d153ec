"""Check of the feature classes that a prepared data set names: tfds may import its own and no others.

tfds restores a set's features from JSON that names their Python classes, and imports the module of any class
that it does not know. A folder from a stranger could thus run any module in the current folder.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cmwnet_jax.data.checksums import damaged
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular

_FILES = ("features.json", "dataset_info.json")
_KEYS = ("type", "pythonClassName", "python_class_name")  # tfds's older form, and protobuf's two forms

_ALLOWED = frozenset(
    f"{feature.__module__}.{feature.__name__}"
    for feature in vars(tfds.features).values()
    if isinstance(feature, type) and issubclass(feature, tfds.features.FeatureConnector)
)


def check_feature_classes(folder: Path) -> None:
    """Checks a prepared set's JSON files before tfds reads them.

    Args:
        folder: one version of the set, with `features.json` and `dataset_info.json`.

    Raises:
        UsageError: a file cannot be read, or names a class outside of `tfds.features`.
    """
    for path in (folder / name for name in _FILES):
        if not path.exists() and not path.is_symlink():
            continue  # reported by the code that needs the file
        try:
            check_regular(path)
            content = json.loads(path.read_text(encoding="utf-8"))
            foreign = next((name for name in _class_names(content) if name not in _ALLOWED), None)
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(folder, f"{path.name!r}, which cannot be read ({first_line(error)})") from error
        if foreign is not None:
            raise UsageError(
                f"data.dir has the file {str(path)!r}, which names the class {foreign!r}, expected those of "
                f"tfds.features alone, since any other would be imported and so run: remove its folder, and "
                f"prepare the data set again"
            )


def _class_names(content: Any) -> Iterator[str]:
    """Everything that tfds may take for a class name; it nests JSON in strings of JSON."""
    if isinstance(content, dict):
        for key, value in content.items():
            # A name without a dot is something else, e.g. a column's type, or is refused by tfds itself.
            if key in _KEYS and isinstance(value, str) and "." in value:
                yield value
            yield from _class_names(value)
    elif isinstance(content, list):
        for value in content:
            yield from _class_names(value)
    elif isinstance(content, str) and content.lstrip()[:1] in ("{", "["):
        try:
            inner = json.loads(content)
        except ValueError:  # ordinary text, not JSON
            return
        yield from _class_names(inner)
