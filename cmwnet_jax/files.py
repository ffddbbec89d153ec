"""Files that are written as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def replace_file(path: Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Writes a file beside its place and moves it there, so that no reader and no crash sees half of it.

    Args:
        path: of the file, in a folder that exists; one that is there is replaced.
        content: its bytes, its text (UTF-8), or a function that writes it to an open binary file.

    Raises:
        OSError: it cannot be written, e.g. on a full disk; what stood at `path` is untouched.
    """
    # Other processes may write the same file, e.g. the jobs of an array.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            sync(file)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def sync(file: BinaryIO) -> None:
    """Waits until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())
