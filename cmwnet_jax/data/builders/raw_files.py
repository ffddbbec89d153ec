"""The files a user points at, read alike from a folder and from a tar archive."""

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from cmwnet_jax.errors import UsageError

ARCHIVES = (".tar", ".tar.gz", ".tgz")


def raw_error(root: Path, what: str) -> UsageError:
    """The error for raw files that cannot be used.

    Args:
        root: where they are.
        what: the rest of the sentence: "which ..." or "where ...".
    """
    return UsageError(f"data.raw_dir is {str(root)!r}, {what}")


class RawFiles:
    """The files below a folder or in a tar, by their path with forward slashes.

    Hidden files are passed over. An archive with one folder at its top, as most published ones have, reads as
    that folder. Reading is safe from several threads.

    Attributes:
        root: the folder or archive.
        sizes: bytes of each file, by path, in ascending order of the paths.
        folders: the path of every folder, so that empty ones can be told.
    """

    def __init__(self, root: Path):
        """Lists the files.

        Args:
            root: a folder, or a `.tar`, `.tar.gz` or `.tgz` of one.

        Raises:
            UsageError: it does not exist, is of another kind, or is a truncated or corrupt archive.
        """
        self.root = root
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self._archive, self._offsets = None, {}
        if root.is_dir():
            self._list_folder()
        elif root.is_file() and root.name.endswith(ARCHIVES):
            try:
                self._list_archive()
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                self.close()
                raise raw_error(root, f"which is truncated or corrupt ({error}): fetch it again") from error
        else:
            found = "is of another kind" if root.exists() else "does not exist"
            raise raw_error(root, f"which {found}, expected a folder or one of {', '.join(ARCHIVES)}")
        self.sizes = dict(sorted(self.sizes.items()))

    def _list_folder(self) -> None:
        for folder, subfolders, names in os.walk(self.root, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            path = Path(folder).relative_to(self.root)
            self.folders.add(path.as_posix())
            for name in names:
                if not name.startswith("."):
                    self.sizes[(path / name).as_posix()] = os.stat(os.path.join(folder, name)).st_size

    def _list_archive(self) -> None:
        if self.root.suffix == ".tar":
            self._archive = self.root.open("rb")
        else:
            # Images are not read in the archive's order, and gzip can only be read in order: unpacked once, it
            # can be read anywhere.
            self._archive = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
            with gzip.open(self.root) as packed:
                shutil.copyfileobj(packed, self._archive, 1 << 20)
            self._archive.seek(0)
        with tarfile.open(fileobj=self._archive, mode="r:") as archive:
            for member in archive:
                path = os.path.normpath(member.name)
                if any(part.startswith(".") for part in path.split("/")):
                    continue
                if member.isdir():
                    self.folders.add(path)
                elif member.isfile():
                    self.sizes[path], self._offsets[path] = member.size, member.offset_data
                    self.folders.update(str(parent) for parent in Path(path).parents)
        self._strip_common_folder()

    def _strip_common_folder(self) -> None:
        tops = {path.split("/")[0] for path in (*self.sizes, *self.folders) if path != "."}
        if len(tops) != 1 or tops & set(self.sizes):
            return
        start = len(tops.pop()) + 1
        self.sizes = {path[start:]: size for path, size in self.sizes.items()}
        self._offsets = {path[start:]: offset for path, offset in self._offsets.items()}
        self.folders = {path[start:] or "." for path in self.folders}

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        if self._archive is None:
            return (self.root / path).read_bytes()
        return os.pread(self._archive.fileno(), self.sizes[path], self._offsets[path])

    def close(self) -> None:
        """Closes the archive, where there is one."""
        if self._archive is not None:
            self._archive.close()
