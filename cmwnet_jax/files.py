"""Checks of paths from users, atomic writing, and reading of regular files only."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cmwnet_jax.errors import UsageError, first_line

_PARTIAL = ".partial"
_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib turns gs:// into gs:/
_LONGEST_NAME, _LONGEST_PATH = 255, 3800  # bytes; the rest of the system's 4096 is for files inside a folder


def local_path(field: str, given: str | os.PathLike) -> Path:
    """Checks a path from a user before anything is done with it, and expands `~`.

    Args:
        field: the flag, config field or argument that held it.
        given: the path; it need not exist.

    Raises:
        UsageError: it is empty, is on another machine (gs://...), or is invalid on every file system.
    """
    try:
        text = os.fsdecode(given)
    except TypeError:
        raise UsageError(f"{field} is {given!r}, expected a path: name one") from None
    shown = repr(text) if len(text) <= 200 else f"{text[:100]!r}... ({len(text)} characters)"
    if not text:
        raise UsageError(f"{field} is empty, expected a path: name one")
    if "\0" in text:
        raise UsageError(f"{field} is {shown}, expected a path, in which there is no zero byte: take it out")
    if _ELSEWHERE.match(text):
        raise UsageError(
            f"{field} is {shown}, expected a path of this machine's file system, whose files can be locked and "
            f"replaced as a whole: mount what is elsewhere, or copy it"
        )
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{field} is {shown}, whose user is not known ({error}): write the path out") from None
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > _LONGEST_NAME or len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise UsageError(
            f"{field} is {shown}, expected names of at most {_LONGEST_NAME} bytes, {_LONGEST_PATH} in all: "
            f"choose a shorter one"
        )
    return path


def local_folder(field: str, given: str | os.PathLike) -> Path:
    """As `local_path`, for a path that is or could become a folder.

    Args:
        field: the flag, config field or argument that held it.
        given: the path.

    Raises:
        UsageError: as `local_path`; also if the path or a parent of it is a file or cannot be inspected.
    """
    path = local_path(field, given)
    with refused(field, path):
        place = next(place for place in (path, *path.absolute().parents) if _is_there(place))
        if not place.is_dir():
            kind = f"a link to {os.readlink(place)!r}, which is no folder" if place.is_symlink() else "a file"
            where = "is" if place == path else f"cannot be written or read, as {str(place)!r} is"
            raise UsageError(
                f"{field} is {str(path)!r}, which {where} {kind}, expected a folder: choose another"
            )
    return path


def folder_to_write(field: str, given: str | os.PathLike) -> Path:
    """As `local_folder`, and checks that the folder can be written; leaves nothing behind.

    Args:
        field: the flag, config field or argument that held it.
        given: the path.

    Raises:
        UsageError: as `local_folder`; also if it cannot be written.
    """
    path = local_folder(field, given)
    with refused(field, path, "cannot be written"):
        check_writable(path)
    return path


def file_to_write(field: str, given: str | os.PathLike, suffix: str) -> Path:
    """As `local_path`, for a file, and checks that it can be written; leaves nothing behind.

    Args:
        field: the flag, config field or argument that held it.
        given: the path; its folder may be missing, and an existing file will be replaced.
        suffix: required ending of the name, e.g. `.png`.

    Raises:
        UsageError: as `local_path`; also if the name has another ending, or the path is a folder or in one that
            cannot be written.
    """
    path = local_path(field, given)
    if path.suffix != suffix:
        raise UsageError(f"{field} is {str(path)!r}, expected a name that ends in {suffix}")
    folder_to_write(field, path.parent)
    if path.is_dir():
        raise UsageError(
            f"{field} is {str(path)!r}, which is a folder, expected a file to write: choose another"
        )
    return path


@contextlib.contextmanager
def refused(field: str, path: Path, problem: str = "cannot be used") -> Iterator[None]:
    """Turns errors of the file system about a path into UsageErrors.

    Args:
        field: the flag, config field or argument that held it.
        path: the path.
        problem: what an OSError means.
    """
    try:
        yield
    except BrokenPipeError:  # stdout was closed
        raise
    except OSError as error:
        raise UsageError(
            f"{field} is {str(path)!r}, which {problem} ({first_line(error)}): choose another"
        ) from error


def _is_there(path: Path) -> bool:
    """Whether there is a file, folder or link; raises an OSError if a folder may not be searched."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def replace_file(path: Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Writes a file atomically: writes it beside its place, then moves it there.

    Args:
        path: the file, in a folder that exists; an existing file is replaced.
        content: bytes, text (UTF-8), or a function that writes to an open binary file.

    Raises:
        OSError: it cannot be written, e.g. because the disk is full; an existing file is then unchanged.
    """
    # Several processes may write the same file at once, e.g. array jobs on several hosts.
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
    """Checks that a file can be written in a folder, or in its nearest parent that exists.

    Args:
        folder: may be missing; nothing is left there.

    Raises:
        OSError: it cannot be written.
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
    """Checks that a path is a regular file or a link to one, before it is opened.

    A pipe would block for ever, and a device such as /dev/zero would fill the memory.

    Args:
        path: a path from a user.

    Raises:
        OSError: it is missing, a broken link, or another kind of file; `strerror` says which.
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
    """Reads a JSON file.

    Args:
        path: any path.
        kind: required type of the content, `dict` or `list`.
        finite: whether to refuse NaN and infinities, which are not JSON.

    Raises:
        OSError: it is missing, cannot be read, or is not a regular file.
        ValueError: its content is wrong; the message says how, in a few words.
    """
    check_regular(path)
    return parse_json(path.read_bytes(), kind, finite=finite)


def parse_json(content: bytes, kind: type = dict, *, finite: bool = False) -> Any:
    """Parses JSON; arguments and errors as in `read_json`."""
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
    """Removes what killed writers left in a folder to which nobody else writes."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Waits until everything written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def hashes_differ(before: str | None, now: str) -> bool:
    """Whether two hashes that were made in the same way differ.

    Args:
        before: `HASH`, or `VERSION-HASH` with the version of the way that it was made; empty or None if it is
            not known.
        now: the other one.
    """
    one, other = (hash.rpartition("-") for hash in (before or now, now))
    return one != other and one[0] == other[0]
