"""What killed preparations leave behind, removed by the next one and not by those that still run.

tfds writes a data set into a folder `incomplete.*` beside its place and renames it when all is there.
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
    """Says while it lasts that somebody prepares a data set in a folder, even if that is killed after.

    Any number of processes may; the kernel takes the lock back with its process.

    Args:
        parent: the folder that the data set's own will be in, made where it is missing.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_still(parent, descriptor):
            break
        os.close(descriptor)  # removed, as empty, before it was locked
    try:
        yield
    finally:
        os.close(descriptor)


def remove(folder: Path, idle_seconds: float = 0) -> None:
    """Removes what was left in a data set's folder and in those of its configurations.

    Args:
        folder: of all versions or configurations of a data set; it may be missing.
        idle_seconds: what was written to since stays: others may prepare there without `preparing`.
    """
    for parent in {path.parent for pattern in (_PATTERN, f"*/{_PATTERN}") for path in folder.glob(pattern)}:
        # Whoever may not write there cannot remove anything either.
        with contextlib.suppress(OSError), _alone(parent):
            for left in parent.glob(_PATTERN):
                if left.is_dir() and (not idle_seconds or time.time() - _last_written(left) >= idle_seconds):
                    shutil.rmtree(left, ignore_errors=True)
            if parent != folder:
                parent.rmdir()


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Raises an OSError where somebody is preparing."""
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
