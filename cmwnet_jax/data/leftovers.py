"""Removes what killed preparations left behind, but nothing that is still being prepared.

tfds writes a data set into a folder `incomplete.*` beside its final place and renames it when it is complete.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_PATTERN = "incomplete.*"


@contextlib.contextmanager
def preparing(parent: Path) -> Iterator[None]:
    """Marks a folder as in use by a preparation; the mark ends with the process, even if it is killed.

    Several processes may hold the mark at once. It is a lock, which the kernel releases.

    Args:
        parent: the folder that will contain the data set's folder; created if it is missing.

    Raises:
        OSError: it cannot be created.
    """
    while True:
        parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks; `remove` then removes nothing
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_still(parent, descriptor):
            break
        os.close(descriptor)  # the file was removed before it could be locked
    try:
        yield
    finally:
        os.close(descriptor)


def remove(folder: Path, idle_seconds: float = 0) -> None:
    """Removes leftovers from a data set's folder and from the folders of its configurations.

    Args:
        folder: contains all versions or configurations of a data set; it may be missing.
        idle_seconds: what was written to more recently stays, for tools that prepare without `preparing`.
    """
    for parent in {path.parent for pattern in (_PATTERN, f"*/{_PATTERN}") for path in folder.glob(pattern)}:
        # Without write permission there, nothing could be removed either.
        with contextlib.suppress(OSError), _alone(parent):
            for left in parent.glob(_PATTERN):
                if left.is_dir() and (not idle_seconds or time.time() - _last_written(left) >= idle_seconds):
                    shutil.rmtree(left, ignore_errors=True)
            if parent != folder:
                parent.rmdir()


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Raises an OSError if a preparation is running."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _last_written(folder: Path) -> float:
    paths = [folder, *(Path(inner, name) for inner, _, names in os.walk(folder) for name in names)]
    return max(path.stat().st_mtime for path in paths)
