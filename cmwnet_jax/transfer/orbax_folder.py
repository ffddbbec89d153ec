"""Folders that Orbax writes: paths without special characters, and checksums of all files.

The formats inside do not have checksums of everything. After a flipped bit, other numbers, names or shapes may
be read, or errors may come from threads that nobody waits for.
"""

import contextlib
import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import replace_file

CHECKSUMS = "checksums.json"
_PLAIN = re.compile(r"[\w ./=,+@~%-]*", re.ASCII)
_BLOCK_BYTES = 1 << 22


@contextlib.contextmanager
def plainly_named(folder: Path) -> Iterator[Path]:
    """Yields a path to the folder without special characters: its own, or a temporary link's.

    Orbax takes paths for patterns, in which `lr=[0.1]` does not match itself, and TensorStore takes them for
    parts of URLs. Arrays would then be missing, or be searched for in another place.

    Args:
        folder: an absolute path; it exists.

    Raises:
        UsageError: the folder for temporary files has special characters, too.
    """
    if _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cmwnet_jax_") as links:
        link = Path(links).absolute() / "folder"
        if not _PLAIN.fullmatch(str(link)):
            raise UsageError(
                f"TMPDIR is {tempfile.gettempdir()!r} and the folder to use {str(folder)!r}, expected one of "
                f"them without special characters: choose another"
            )
        link.symlink_to(folder, target_is_directory=True)
        yield link


def check_has_arrays(folder: Path) -> None:
    """Checks that Orbax has written the arrays to the place where it will read them.

    Args:
        folder: folder of an item that has just been written.

    Raises:
        UsageError: they are not there.
    """
    if not (folder / "manifest.ocdbt").is_file():
        raise UsageError(
            f"Orbax has written no arrays into {str(folder)!r}, from which nothing could be read: choose "
            f"another folder"
        )


def seal(folder: Path, **facts: int) -> None:
    """Adds a list of checksums to a folder whose files will not change.

    Args:
        folder: the folder; files at any depth are included.
        facts: further numbers to verify later, e.g. a checkpoint's number.

    Raises:
        OSError: a file cannot be read or written.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    replace_file(
        folder / CHECKSUMS, json.dumps({**facts, "files": {name: _crc32(folder / name) for name in files}})
    )


def is_sealed(folder: Path) -> bool:
    """Whether the folder has a list of checksums; those of earlier versions have none."""
    return (folder / CHECKSUMS).exists()


def broken_seal(folder: Path, **facts: int) -> str:
    """Describes what has changed since the folder was sealed; empty if nothing has.

    Args:
        folder: a sealed folder.
        facts: expected values of the numbers that were sealed with it.
    """
    try:
        found = json.loads((folder / CHECKSUMS).read_bytes())
        changed = [name for name, checksum in found["files"].items() if _crc32(folder / name) != checksum]
        other = {name: found[name] for name in facts if found.get(name, facts[name]) != facts[name]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return (
            f"{Path(getattr(error, 'filename', None) or CHECKSUMS).name} in {folder.name}: {first_line(error)}"
        )
    if changed:
        return f"other bytes than were written in {', '.join(f'{folder.name}/{name}' for name in changed[:3])}"
    return "; ".join(f"{folder.name} is of {name} {value}" for name, value in other.items())


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
