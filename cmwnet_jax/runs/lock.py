"""File lock on a folder, released by the kernel when the process ends in any way."""

import contextlib
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import check_regular, read_json, refused

_PATIENCE_SECONDS = 1.0  # another process may hold the lock for an instant, only to check it


def check_free(file: Path) -> None:
    """Checks that no process holds the lock; changes nothing.

    Args:
        file: the lock file; it may be missing.

    Raises:
        UsageError: another process holds the lock, or the file cannot be read.
    """
    if os.path.lexists(file):
        with _opened(file, "r") as opened:
            _acquire(opened.fileno(), fcntl.LOCK_SH, file)


@contextlib.contextmanager
def hold(file: Path) -> Iterator[None]:
    """Holds the lock inside the context; the kernel releases it if the process is killed.

    The file is not removed afterwards: otherwise two processes could lock two files of the same name.

    Args:
        file: the lock file, created if it is missing; it names the process that held it last.

    Raises:
        UsageError: another process holds the lock, or the file cannot be written.
    """
    with _opened(file, "a+") as opened:
        _acquire(opened.fileno(), fcntl.LOCK_EX, file)
        opened.truncate(0)
        opened.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        opened.flush()
        yield


def _opened(file: Path, mode: str) -> TextIO:
    with refused("the lock", file):
        if os.path.lexists(file):
            check_regular(file)
        return file.open(mode)


def _acquire(descriptor: int, kind: int, file: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"workdir is {str(file.parent)!r}, in which another process ({_holder(file)}) is running: "
                    f"wait for it, stop it, or choose another folder"
                ) from None
            time.sleep(0.05)
        except OSError as error:  # a file system without locks
            warnings.warn(
                f"{file} cannot be locked ({error.strerror}): start no second run there", stacklevel=4
            )
            return None


def _holder(file: Path) -> str:
    try:
        holder = read_json(file)
        return f"pid {holder['pid']}, host {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "of unknown pid"
