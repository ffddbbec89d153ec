"""Listing of a tar archive; every sign of damage is an error."""

import os
import tarfile
from typing import BinaryIO, NamedTuple


class Member(NamedTuple):
    """A file in a tar: `size` bytes from `offset`."""

    size: int
    offset: int


class Listing(NamedTuple):
    """Contents of a tar by path with forward slashes; entries that are refused, with the reason."""

    files: dict[str, Member]
    folders: set[str]
    refused: list[str]


def list_tar(archive: BinaryIO) -> Listing:
    """Lists an uncompressed tar; a hard link stands for the file that it names.

    Args:
        archive: an open and seekable file.

    Returns:
        The listing.

    Raises:
        tarfile.TarError: a header is damaged or the archive is truncated. `tarfile` itself takes both for the
            end of the archive, from the second header on.
    """
    listing = Listing({}, set(), [])
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for member in tar:
            if member.size < 0:  # would seek backwards, in an endless loop
                raise tarfile.ReadError(f"the size of {member.name!r} is negative")
            _add(member, listing)
        end = tar.offset  # the place of the next header
    _check_end(archive, end)
    return listing


def _add(member: tarfile.TarInfo, listing: Listing) -> None:
    path = os.path.normpath(member.name)
    files = listing.files
    if path.startswith("/") or ".." in path.split("/"):
        listing.refused.append(f"{member.name!r}: it leads out of the archive")
    elif member.isdir():
        listing.folders.add(path)
    elif member.isfile() and not member.issparse():
        files[path] = Member(member.size, member.offset_data)
    elif member.islnk() and os.path.normpath(member.linkname) in files:
        files[path] = files[os.path.normpath(member.linkname)]
    else:
        listing.refused.append(f"{member.name!r}: {_kind(member)}")


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    if member.issparse():
        return "a sparse file"
    return "a device or pipe" if member.isdev() else f"of the unknown type {member.type!r}"


def _check_end(archive: BinaryIO, end: int) -> None:
    """Raises a TarError unless the end mark, two blocks of zeros, follows, and then only zeros."""
    archive.seek(end)
    zeros = 0
    while block := archive.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"what follows byte {end} is neither a header nor the end")
        zeros += len(block)
    if zeros < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it stops at byte {end + zeros}, before its end mark")
