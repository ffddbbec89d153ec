"""Files that are written as a whole or not at all, and read only where they are files."""

import errno
import json
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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


def check_writable(folder: Path) -> None:
    """Makes sure that a file can be written in a folder, or in the nearest one above that exists.

    Args:
        folder: may be missing; nothing is made or left there.

    Raises:
        OSError: it cannot.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=nearest):
        pass


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path) -> None:
    """Makes sure that a path is a regular file, or a link to one, before it is opened.

    A pipe would be waited on for ever, and a device such as /dev/zero be read until the memory is full.

    Args:
        path: from a user.

    Raises:
        OSError: it is missing, a link to something that is missing, or something else; `strerror` says which.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        problem = f"a link to {os.readlink(path)!r}, which does not exist"
        raise FileNotFoundError(errno.ENOENT, problem, str(path)) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, expected a regular file", str(path))


def read_json(path: Path, kind: type = dict, *, finite: bool = False) -> Any:
    """What a JSON file holds.

    Args:
        path: from anywhere.
        kind: what it must be, `dict` or `list`.
        finite: whether NaN and infinities, which JSON has not, are refused.

    Raises:
        OSError: it is missing, cannot be read, or is no regular file.
        ValueError: it holds no such thing; says what it does in a few words.
    """
    check_regular(path)
    return parse_json(path.read_bytes(), kind, finite=finite)


def parse_json(content: bytes, kind: type = dict, *, finite: bool = False) -> Any:
    """What some JSON says; arguments and errors as those of `read_json`."""
    if not content.strip():
        raise ValueError("it is empty")
    hooks = {"parse_constant": _refuse_constant, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(content.decode(), **hooks)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"it holds {_JSON_KINDS[type(value)]}, expected {_JSON_KINDS[kind]}")
    return value


_JSON_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which JSON has not")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def remove_partial_files(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder, where nobody else writes."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Waits until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())
