"""Base classes of our builders: writing contents as a prepared data set, and the checks that all share.

A builder is a `LocalBuilder` with a `scan` that turns raw files into `Contents`. Records are written in the
order of the contents, never shuffled, so row i stays row i.
"""

import abc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from cmwnet_jax.data.builders import images
from cmwnet_jax.data.builders.contents import KEY_VERSION, KEY_VERSION_FACT, Contents, ImageFiles
from cmwnet_jax.data.builders.raw_files import RawFiles, raw_error

# tfds holds the encoded examples of a shard in memory until it is written.
_SHARD_EXAMPLES = 4096

# Files among images that are certainly no examples; any other file is an error.
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".yaml", ".yml", ".log", ".url")
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "icon\r", "readme", "license")

TEST_SPLITS = ("test", "val", "validation")
"""Possible names of a test split; the first that exists is used."""


def check_splits(split_names: Sequence[str], root: Path, wanted: str, held: str = "") -> None:
    """Raises a UsageError unless there are a `train` and a test split.

    Args:
        split_names: the splits that were found.
        root: the folder or archive that was searched.
        wanted: the files that the builder wants, for the error.
        held: what is there instead, for the error.
    """
    for names in (("train",), TEST_SPLITS):
        if not set(names) & set(split_names):
            instead = f" ({held})" if held else ""
            raise raw_error(root, f"which has no {' or '.join(names)} split{instead}: {wanted}")


def check_classes(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str], root: Path, remedy: str = ""
) -> None:
    """Raises a UsageError if a class has no example in a split, or its name cannot be stored.

    Args:
        labels: per split, [N] int in [0, C).
        class_names: C names.
        root: the folder or archive of the examples.
        remedy: what to do, for a set whose classes are fixed.
    """
    _check_names(class_names, root)
    for split, given in labels.items():
        empty = np.flatnonzero(np.bincount(given, minlength=len(class_names)) == 0)
        if len(empty):
            raise raw_error(
                root,
                f"where {len(empty)} of {len(class_names)} classes have no "
                f"example in {split}, the first {class_names[empty[0]]!r}: "
                f"{remedy or 'add some or take the class out'}",
            )


def image_paths(files: RawFiles, folder: str) -> list[str]:
    """Paths of the images below a folder, ascending; text files are ignored.

    Args:
        files: the raw files.
        folder: a path in them.

    Raises:
        UsageError: there are files that are neither image nor text; if they were ignored, nobody would notice.
    """
    paths = [path for path in files.sizes if path.startswith(f"{folder}/")]
    found = [path for path in paths if path.lower().endswith(images.SUFFIXES)]
    unknown = [path for path in sorted({*paths} - {*found}) if not _is_passed_over(path)]
    if unknown:
        raise raw_error(
            files.root,
            f"where {len(unknown)} of {len(paths)} files in {folder} are not images that can be read "
            f"({', '.join(images.SUFFIXES)}): {', '.join(map(repr, unknown[:3]))}"
            f"{' and so on' if len(unknown) > 3 else ''}; convert them or take them out",
        )
    return found


def _is_passed_over(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return name.endswith(_TEXTS) or name in _LEFT_BY_SYSTEMS


def _check_names(class_names: Sequence[str], root: Path) -> None:
    """Raises a UsageError for names that tfds would change: it stores them as the lines of a text file."""
    odd = [name for name in class_names if name != name.strip() or len(name.splitlines()) != 1]
    if odd or len(set(class_names)) != len(class_names):
        what = f"{odd[0]!r}, which is empty, of two lines or ends in a space" if odd else "the same name twice"
        raise raw_error(root, f"where the {len(class_names)} class names have {what}: rename it")


def _is_missing(path: Path) -> bool:
    """Whether nothing has this name; a path that cannot be looked at is another matter."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


class LocalBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A tfds builder for files on this machine.

    Attributes:
        WANTS: the files that it wants, as the end of a sentence.
        URL: where they are published; empty if there is no such place.
        OPTIONS: the further fields of the config's section `data` that it reads; `scan` takes them by name.
    """

    VERSION = tfds.core.Version("1.0.0")
    WANTS = ""
    URL = ""
    OPTIONS: tuple[str, ...] = ()

    def __init__(self, *, data_dir: str, raw_dir: str = "", **options: str):
        """Lists the raw files.

        Args:
            data_dir: folder of all prepared data sets.
            raw_dir: a folder or archive; empty for a builder that needs none.
            **options: values of fields in `OPTIONS`.

        Raises:
            UsageError: the files are not those that the builder wants.
        """
        root = Path(os.path.expanduser(raw_dir))
        if self.WANTS and _is_missing(root):
            raise raw_error(root, f"which does not exist: {self.wanted()}")
        try:
            self.contents = self.scan(root, **options)
        except OSError as error:  # must not be mistaken for an error of the output folder
            raise raw_error(root, f"which cannot be read ({error}): make that possible") from error
        config = None
        if self.contents.key:
            shown = raw_dir.encode(errors="replace").decode()
            config = tfds.core.BuilderConfig(name=self.contents.key, description=f"Prepared from {shown}")
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    @classmethod
    def wanted(cls) -> str:
        """One clause: what `data.raw_dir` must be, and where it is published."""
        where = f", published at {cls.URL}" if cls.URL else ""
        return f"set --config.data.raw_dir to {cls.WANTS}{where}"

    @classmethod
    @abc.abstractmethod
    def scan(cls, root: Path) -> Contents:
        """Lists the contents of `root`, checked as far as possible without decoding images."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.URL,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": self.contents.image_feature,
                    "label": tfds.features.ClassLabel(names=list(self.contents.class_names)),
                    **self.contents.more_features,
                }
            ),
            metadata=tfds.core.MetadataDict({**self.contents.facts, KEY_VERSION_FACT: KEY_VERSION}),
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return {
            split: [
                partial(self._shard, split, at, min(at + _SHARD_EXAMPLES, size))
                for at in range(0, size, _SHARD_EXAMPLES)
            ]
            for split, size in self.contents.sizes.items()
        }

    def _shard(self, split: str, start: int, stop: int) -> Iterator[tuple[int, dict]]:
        yield from enumerate(self.contents.examples(split, start, stop), start)


class FilesBuilder(LocalBuilder, skip_registration=True):
    """A builder for image files in a folder or a tar archive."""

    @classmethod
    def scan(cls, root: Path) -> ImageFiles:
        """Lists the images below `root`.

        Args:
            root: the folder, or an archive of it.

        Raises:
            UsageError: it cannot be read, or its layout is wrong, e.g. a split is missing, a class has no
                image, or a label is not a class.
        """
        files = RawFiles(root)
        try:
            return cls._contents(files)
        except BaseException:
            files.close()
            raise

    @classmethod
    @abc.abstractmethod
    def _contents(cls, files: RawFiles) -> ImageFiles:
        """Lists the examples, checked as far as possible without decoding images."""
