"""Weight nets that come with the package: `zoo:NAME` stands where a path of a weight net does.

Their files lie in the package, so that they are found wherever it is installed. experiments/weight_nets/ has
their cards.
"""

import os
from pathlib import Path

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.transfer.portable import SUFFIX

PREFIX = "zoo:"
"""Begins the name of such a weight net."""

_FOLDER = Path(__file__).parent / "nets"


def names() -> list[str]:
    """Names of the weight nets, without the prefix."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{SUFFIX}"))


def file_of(given: str | os.PathLike) -> Path | None:
    """The file of a weight net that comes with the package; None if anything else is given.

    Args:
        given: `zoo:NAME`; or NAME alone, which is a path if there is one.

    Raises:
        UsageError: no weight net has the name after `zoo:`.
    """
    if not isinstance(given, str):
        return None
    name = given.removeprefix(PREFIX)
    if given.startswith(PREFIX) and name not in names():
        raise unknown_name("path", given, [PREFIX + known for known in names()])
    return _FOLDER / f"{name}{SUFFIX}" if name in names() and not os.path.lexists(given) else None


def check_name(path: Path) -> None:
    """Lists the names if a path is neither there nor could be a path to somewhere else.

    Args:
        path: a path from a user, which is no file.

    Raises:
        UsageError: it is a single name, and nothing in this folder has it.
    """
    if path.name == str(path) and not path.exists():
        raise UsageError(
            f"path is {str(path)!r}, which does not exist, expected a run, a checkpoint, a saved weight "
            f"net, an exported file, or one of {', '.join(PREFIX + name for name in names())}"
        )
