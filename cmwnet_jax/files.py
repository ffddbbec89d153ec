"""Files that are written as a whole or not at all, and that are on the disk when they are said to be."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"


def replace_file(path: Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Writes a file beside its place and moves it there, so that no reader and no crash sees half of it.

    Args:
        path: of the file, in a folder that exists; one that is there is replaced.
        content: its bytes, its text (UTF-8), or a function that writes it to an open binary file.

    Raises:
        OSError: it cannot be written, e.g. on a full disk; what stood at `path` is untouched.
    """
    # Others may write the same file at the same time, e.g. the jobs of an array on several hosts.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            sync(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder, where nobody else writes."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Waits until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())
