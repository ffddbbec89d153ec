"""Paths from users; files that are written as a whole or not at all, and read only where they are files."""

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
_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib makes gs:/ of gs://
_LONGEST_NAME, _LONGEST_PATH = 255, 3800  # bytes; of the system's 4096 some are for what is inside


def local_path(field: str, given: str | os.PathLike) -> Path:
    """The path that a user gave, with `~` filled in, checked before anything is done with it.

    Args:
        field: the flag, config field or argument that held it.
        given: the path; nothing needs to be there.

    Raises:
        UsageError: it is empty, names another machine's files (gs://...), or no file system could have it.
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
    """As `local_path`, of what is a folder, or could be made one.

    Args:
        field: the flag, config field or argument that held it.
        given: the path.

    Raises:
        UsageError: as `local_path` says; or it, or what it would be in, is a file or cannot be looked at.
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
    """As `local_folder`, of one that can be written; nothing is made or left there.

    Args:
        field: the flag, config field or argument that held it.
        given: the path.

    Raises:
        UsageError: as `local_folder` says; or it cannot be written.
    """
    path = local_folder(field, given)
    with refused(field, path, "cannot be written"):
        check_writable(path)
    return path


def file_to_write(field: str, given: str | os.PathLike, suffix: str) -> Path:
    """As `local_path`, of a file that can be written; nothing is made or left there.

    Args:
        field: the flag, config field or argument that held it.
        given: the path; its folder may be missing, and a file that is there may be replaced.
        suffix: what its name has to end in, e.g. `.png`.

    Raises:
        UsageError: as `local_path` says; its name ends otherwise, it is a folder, or in one that cannot be
            written.
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
    """Turns what the file system says of a path that a user gave into a UsageError.

    Args:
        field: the flag, config field or argument that held it.
        path: the path.
        problem: what an OSError means.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{field} is {str(path)!r}, which {problem} ({first_line(error)}): choose another"
        ) from error


def _is_there(path: Path) -> bool:
    """Whether there is a file, folder or link; a folder that may not be searched is an OSError."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
