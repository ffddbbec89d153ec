"""Raw files of the user, read in the same way from a folder and from a tar archive."""

import errno
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cmwnet_jax.data.builders.archives import Member, list_tar
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular

ARCHIVES = (".tar", ".tar.gz", ".tgz")
_PACKED = (*ARCHIVES, ".zip", ".7z", ".gz", ".bz2", ".xz")
_GZIP = b"\x1f\x8b"
_SHOWN = 5  # names shown of what a folder holds

# Errors of tarfile and gzip on damaged bytes; the last one comes from an endless chain of headers.
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, zlib.error, RecursionError)


def raw_error(root: Path, what: str) -> UsageError:
    """The error for raw files that cannot be used.

    Args:
        root: the folder or archive.
        what: the rest of the sentence: "which ..." or "where ...".
    """
    return UsageError(f"data.raw_dir is {str(root)!r}, {what}")


def held(names: Iterable[str]) -> str:
    """What a folder holds, in words, to be shown where something else was expected."""
    names = sorted(names)
    if not names:
        return "it is empty"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    packed = any(name.lower().endswith(_PACKED) for name in names)
    unpack = "; archives in it are not read: unpack them" if packed else ""
    return f"it holds {', '.join(names[:_SHOWN])}{more}{unpack}"


class RawFiles:
    """The files below a folder or in a tar, by path with forward slashes.

    Hidden files and macOS's `__MACOSX` are ignored. Links in a folder are followed. An archive with a single
    folder at its top, as most published ones have, reads as that folder. Several threads may read at once.

    Attributes:
        root: the folder or archive.
        sizes: bytes of each file by path, ascending by path.
        folders: the path of every folder, so that empty ones can be reported.
    """

    def __init__(self, root: Path):
        """Lists the files.

        Args:
            root: a folder, or a `.tar`, `.tar.gz` or `.tgz` of one.

        Raises:
            UsageError: it does not exist, cannot be read, is of another kind, or is a truncated or corrupt
                archive; or an entry is neither a file nor a folder, or has a name that is not UTF-8.
        """
        self.root = root
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self._archive, self._offsets = None, {}
        try:
            refused = self._list()
            self._check(refused)
        except BaseException:
            self.close()
            raise
        self.sizes = dict(sorted(self.sizes.items()))

    def _list(self) -> list[str]:
        """Fills the attributes; returns the refused entries with the reason."""
        if self.root.is_dir():
            return self._list_folder()
        if self.root.is_file() and self.root.name.lower().endswith(ARCHIVES):
            try:
                return self._list_archive()
            except _DAMAGE as error:
                damaged = not getattr(error, "errno", None)  # with errno: the system's, e.g. a full disk
                if damaged and _is_page(self.root):
                    raise raw_error(
                        self.root,
                        "which is a web page, perhaps one to sign in at, expected an archive: fetch it again",
                    ) from error
                found = "is truncated or corrupt" if damaged else "cannot be read"
                remedy = "fetch it again" if damaged else "make that possible"
                raise raw_error(self.root, f"which {found} ({first_line(error)}): {remedy}") from error
        found = "is of another kind" if self.root.exists() else "does not exist"
        if self.root.is_symlink() and not self.root.exists():
            found = f"is a link to {os.readlink(self.root)!r}, which does not exist"
        remedy = ": unpack it, if it is an archive, and give the folder" if self.root.is_file() else ""
        raise raw_error(self.root, f"which {found}, expected a folder or one of {', '.join(ARCHIVES)}{remedy}")

    def _check(self, refused: list[str]) -> None:
        """Raises a UsageError if an entry cannot be used; if it were ignored, nobody would notice."""
        if refused:
            raise raw_error(
                self.root,
                f"where {len(refused)} of {len(self.sizes) + len(refused)} files cannot be used, the first "
                f"{refused[0]}: put the files themselves there, or take these out",
            )
        names = [*self.sizes, *self.folders]
        odd = sorted(name for name in names if not is_utf8(name))
        if odd:
            raise raw_error(
                self.root,
                f"where {len(odd)} of {len(names)} names of files and folders are not UTF-8, the first "
                f"{odd[0]!r}: rename them",
            )

    def _list_folder(self) -> list[str]:
        refused = []
        ways = [("", ())]  # each folder with the folders that contain it
        while ways:
            folder, above = ways.pop()
            path = self.root / folder
            try:
                status = path.stat()
                if (here := (status.st_dev, status.st_ino)) in above:
                    raise OSError(errno.ELOOP, "a link to a folder that it lies in")
                entries = [entry for entry in os.scandir(path) if not _is_hidden(entry.name)]
            except OSError as error:
                refused.append(f"{folder!r}: {first_line(error)}")
                continue
            self.folders.add(folder or ".")
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    if entry.is_dir():
                        ways.append((name, (*above, here)))
                    else:
                        self.sizes[name] = _size(entry)
                except OSError as error:
                    refused.append(f"{name!r}: {first_line(error)}")
        return sorted(refused)

    def _list_archive(self) -> list[str]:
        self._archive = self.root.open("rb")
        if _begins(self._archive, _GZIP):  # whatever its name: browsers unpack some, and keep the name
            self._archive.close()
            # Images are not read in the archive's order, but gzip allows no other. Unpack it once, for random
            # access.
            self._archive = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
            with gzip.open(self.root) as packed:
                shutil.copyfileobj(packed, self._archive, 1 << 20)
            self._archive.seek(0)
        listing = list_tar(self._archive)
        members = {path: member for path, member in listing.files.items() if not _is_hidden(*path.split("/"))}
        folders = {folder for folder in listing.folders if not _is_hidden(*folder.split("/"))}
        folders.update(str(parent) for path in members for parent in Path(path).parents)
        self._take(members, folders)
        return listing.refused

    def _take(self, members: dict[str, Member], folders: set[str]) -> None:
        """Fills the attributes from a listing; a single folder at the top is removed from the paths."""
        tops = {path.split("/")[0] for path in (*members, *folders) if path != "."}
        start = len(tops.pop()) + 1 if len(tops) == 1 and not tops & set(members) else 0
        self.sizes = {path[start:]: member.size for path, member in members.items()}
        self._offsets = {path[start:]: member.offset for path, member in members.items()}
        self.folders = {path[start:] or "." for path in folders}

    def held(self) -> str:
        """What lies at the top, in words, to be shown where something else was expected."""
        return held({path.split("/")[0] for path in (*self.sizes, *self.folders)} - {"."})

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            OSError: it cannot be read.
        """
        if self._archive is None:
            return (self.root / path).read_bytes()
        return os.pread(self._archive.fileno(), self.sizes[path], self._offsets[path])

    def lines(self, path: str) -> Iterator[str]:
        """The lines of a text file.

        Raises:
            UsageError: it cannot be read, or is not UTF-8.
        """
        try:
            text = self.read(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise raw_error(
                self.root, f"where {path!r} cannot be read as UTF-8 text ({first_line(error)}): fetch it again"
            ) from error
        yield from text.splitlines()

    def close(self) -> None:
        """Closes the archive, if there is one."""
        if self._archive is not None:
            self._archive.close()


def _begins(file: BinaryIO, with_bytes: bytes) -> bool:
    """Whether an open file begins with these bytes; it is at its start again."""
    begins = file.read(len(with_bytes)) == with_bytes
    file.seek(0)
    return begins


def _is_page(path: Path) -> bool:
    """Whether a file is HTML, as servers send it in place of a file that needs a login."""
    with path.open("rb") as file:
        return file.read(100).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _is_hidden(*parts: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def is_utf8(name: str) -> bool:
    """Whether a path is UTF-8; Python represents other bytes as lone surrogates.

    Args:
        name: a path, or a part of one.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(entry: os.DirEntry) -> int:
    """Bytes of a file; raises an OSError if it is neither a regular file nor a link to one."""
    try:
        status = entry.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    except OSError:
        pass  # the next line gives a better error
    check_regular(Path(entry.path))
    return os.stat(entry.path).st_size
