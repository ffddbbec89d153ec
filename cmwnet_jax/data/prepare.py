"""Prepared data sets in ArrayRecord format: found if they exist, otherwise written.

TensorFlow is needed once, to prepare the sets that tfds builds itself. Our own builders and all reading work
without it.
"""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from cmwnet_jax.data import checksums, leftovers
from cmwnet_jax.data.builders import BUILDERS, LocalBuilder
from cmwnet_jax.data.builders.raw_files import is_utf8
from cmwnet_jax.data.feature_classes import check_feature_classes
from cmwnet_jax.errors import UsageError, first_line, pip_line, unknown_name
from cmwnet_jax.files import local_folder, local_path

TFDS_TEST_SPLITS = {
    "mnist": "test",
    "fashion_mnist": "test",
    "kmnist": "test",
    "cifar10": "test",
    "cifar100": "test",
    "cifar10_n": "test",
    "cifar100_n": "test",
    "imagenet_lt": "test",
    "imagenet2012": "validation",  # its test split has no labels
    "imagenet2012_subset/10pct": "validation",
}
"""Data sets of tfds, by its names, each with the split to test on."""

TEST_ONLY = ("imagenet_val",)
"""Data sets without a training split."""

DATASETS = (*BUILDERS, *TFDS_TEST_SPLITS)
"""Every data set by name."""


def options_of(fields: Mapping[str, Any], name: str = "") -> dict[str, str]:
    """What a data set's builder reads of a config besides the name and the folders.

    Args:
        fields: the config's section `data`; fields that runs of older versions lack have their defaults.
        name: the data set, e.g. a second one to test on; empty for the one to train on.
    """
    builder = BUILDERS.get(name or fields["name"], LocalBuilder)
    return {name: fields[name] for name in builder.OPTIONS if name in fields}


def check_can_train(name: str) -> None:
    """Raises a UsageError for a set without a training split.

    Args:
        name: a data set's name.
    """
    if name in TEST_ONLY:
        raise UsageError(
            f"data.name is {name!r}, which has nothing to train on, expected a set with a training split: "
            f"name it in data.also_test, to test on it"
        )


def prepared(
    name: str, data_dir: str = "", raw_dir: str = "", options: Mapping[str, str] | None = None
) -> tfds.core.DatasetBuilder:
    """A builder that reads the prepared data set; prepares it on first use.

    Args:
        name: one of `DATASETS`.
        data_dir: folder of all prepared data sets; empty for the environment variable `TFDS_DATA_DIR`, or
            `~/tensorflow_datasets` if that is not set.
        raw_dir: for sets whose files are downloaded by hand, their folder or archive; empty uses the set that
            is already prepared.
        options: from `options_of`; None for the defaults.

    Raises:
        UsageError: the name is unknown, the raw files are missing or cannot be used, TensorFlow is needed and
            missing, or the folder cannot be written.
    """
    if name not in DATASETS:
        raise unknown_name("data.name", name, DATASETS)
    root = data_root(data_dir)
    if not is_utf8(str(root)):
        raise UsageError(
            f"data.dir is {str(root)!r}, which is no name in UTF-8: set --config.data.dir to another folder"
        )
    tfds.disable_progress_bar()
    # Other programs, e.g. tfds's own command, may also be preparing sets there.
    leftovers.remove(root / name, 0 if name in BUILDERS else 3600)
    try:
        if name in BUILDERS:
            folder = _local(BUILDERS[name], root, raw_dir, options or {})
        else:
            folder = _by_tfds(name, root, raw_dir)
    except OSError as error:
        raise UsageError(
            f"data.dir is {str(root)!r}, where {name} cannot be prepared ({error}): set --config.data.dir to a "
            "folder that can be written"
        ) from error
    builder = opened(folder)
    formats = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD not in formats:
        raise UsageError(
            f"data.dir is {str(root)!r}, where {name} is prepared as {', '.join(f.value for f in formats)}, "
            f"expected array_record: set --config.data.dir to another folder, or remove {str(folder)!r}"
        )
    return builder


def opened(folder: Path) -> tfds.core.DatasetBuilder:
    """The builder that reads one prepared version of a set.

    Args:
        folder: the version's folder.

    Raises:
        UsageError: it is damaged, or names a class that tfds must not import.
    """
    check_feature_classes(folder)
    try:
        checksums.check_files(folder)
        builder = tfds.builder_from_directory(folder)
        if not {"image", "label"} <= builder.info.features.keys() or not builder.info.splits:
            raise ValueError("it has no labelled images")
        return builder
    except UsageError:
        raise
    except Exception as error:  # tfds checks little, so damage leads to errors of many kinds
        raise checksums.damaged(folder, first_line(error)) from error


def data_root(data_dir: str) -> Path:
    """The folder of all prepared data sets.

    Args:
        data_dir: as in `prepared`.

    Raises:
        UsageError: it is no path that could be one.
    """
    field, given = "data.dir", data_dir
    if not given:
        field, given = "TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = local_path(field, given)
    try:
        return local_folder(field, path)
    except UsageError as error:
        raise UsageError(f"{error}, with --config.data.dir") from error


def _local(builder_class: type[LocalBuilder], root: Path, raw_dir: str, options: Mapping[str, str]) -> Path:
    version = str(builder_class.VERSION)
    if builder_class.WANTS and not raw_dir:
        return only_one(builder_class, root)
    with _quiet():
        if not builder_class.WANTS and (root / builder_class.name / version).exists():
            return root / builder_class.name / version
        for prepared_before in _prepared_folders(builder_class, root):
            checksums.check_are_files(prepared_before)
        try:
            builder = builder_class(data_dir=os.fspath(root), raw_dir=raw_dir, **options)
        except UsageError:
            raise
        except Exception:  # the builder reads the prepared set, if there is one
            for prepared_before in _prepared_folders(builder_class, root):
                opened(prepared_before)
            raise
        folder = Path(builder.data_dir)
        if folder.exists():
            builder.contents.close()
            return folder
        with (
            contextlib.closing(builder.contents),
            _no_trace_of_failure(folder),
            leftovers.preparing(folder.parent),
            tempfile.TemporaryDirectory() as empty,
        ):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # where tfds says that it downloads
                    builder.download_and_prepare(download_dir=empty)
                checksums.begin(folder)
            except OSError:
                if not folder.exists():  # otherwise another process has finished first
                    raise
            for note in builder.contents.notes:
                print(f"note: {note}", file=sys.stderr, flush=True)
    return folder


def _prepared_folders(builder_class: type[LocalBuilder], root: Path) -> list[Path]:
    """The prepared folders of a set, one for each collection of raw files."""
    return sorted((root / builder_class.name).glob(f"*/{builder_class.VERSION}"))


def only_one(builder_class: type[LocalBuilder], root: Path) -> Path:
    """The prepared folder of a set, if no raw files are given.

    Args:
        builder_class: the set's builder.
        root: the folder of all prepared data sets.

    Raises:
        UsageError: the set is not prepared, or from several collections of files.
    """
    found = _prepared_folders(builder_class, root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"data.name is {builder_class.name!r}, which is not prepared in {str(root)!r}: "
            f"{builder_class.wanted()}"
        )
    sources = [opened(path).info.config_description for path in found]
    raise UsageError(
        f"data.name is {builder_class.name!r}, of which {len(found)} are in {str(root)!r} "
        f"({'; '.join(sorted(sources))}): set --config.data.raw_dir to say which"
    )


def _by_tfds(name: str, root: Path, raw_dir: str) -> Path:
    folder = newest(root / name)
    if folder is None:
        if importlib.util.find_spec("tensorflow") is None:
            raise UsageError(
                f"data.name is {name!r}, which is not prepared in {str(root)!r} and needs TensorFlow to be: "
                f"run {pip_line('prepare')}, or copy the folder {name} there from where it is prepared"
            )
        with (
            _quiet(),
            _no_trace_of_failure(root / name, root / "downloads"),
            leftovers.preparing(root / name),
        ):
            _prepare_by_tfds(name, root, raw_dir)
            folder = newest(root / name)
            checksums.begin(folder)
    return folder


def _prepare_by_tfds(name: str, root: Path, raw_dir: str) -> None:
    config = tfds.download.DownloadConfig(manual_dir=os.path.expanduser(raw_dir) or None)
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # tfds raises AssertionError for missing files, among others
        by_hand = f"put the files that it names into data.raw_dir, which is {raw_dir!r}"
        remedy = by_hand if isinstance(error, AssertionError) else "check the network, or copy the folder there"
        raise UsageError(
            f"data.name is {name!r}, which tfds could not prepare in {str(root)!r} ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): {remedy}"
        ) from error


def newest(folder: Path) -> Path | None:
    """The highest version that is prepared, complete or not; None if there is none.

    Args:
        folder: the set's folder, with a folder per version.
    """
    versions = [
        ((path / "dataset_info.json").exists(), tuple(int(number) for number in path.name.split(".")), path)
        for path in folder.glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
    ]
    return max(versions)[2] if versions else None


@contextlib.contextmanager
def _no_trace_of_failure(*targets: Path) -> Iterator[None]:
    """If preparing fails, removes the empty folders and partial downloads that it made in these folders.

    tfds removes the half-written data set itself, but not these. Complete downloads are kept.
    """
    before = {folder for target in targets for folder, _, _ in os.walk(target)}
    parents = {os.fspath(path) for target in targets for path in target.parents if not path.exists()}
    try:
        yield
    except BaseException:
        made = [folder for target in targets for folder, _, _ in os.walk(target) if folder not in before]
        for folder in sorted({*made, *parents}, key=len, reverse=True):  # innermost first
            with contextlib.suppress(OSError):  # not empty, or already gone
                shutil.rmtree(folder) if ".tmp." in os.path.basename(folder) else os.rmdir(folder)
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tfds from warning that a builder's configuration, our checksum, is not a listed one."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
