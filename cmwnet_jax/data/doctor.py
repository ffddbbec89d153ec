"""Examines a config's data before they are prepared: missing and damaged files, disk space and time."""

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from cmwnet_jax.data import also_test, bias, prepare
from cmwnet_jax.data.builders import BUILDERS, LocalBuilder
from cmwnet_jax.data.builders.base import TEST_SPLITS, FilesBuilder
from cmwnet_jax.data.builders.contents import PREPARING_THREADS, ImageFiles
from cmwnet_jax.data.findings import Finding, Findings, report_line, shown_bytes, shown_duration, verdict
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.load import fit_of
from cmwnet_jax.errors import UsageError, first_line, unknown_name
from cmwnet_jax.screen import console

SAMPLE = 64
"""Images that are read whole: as many of each split."""

_OVERHEAD = 1.05  # of a prepared set: records, names and labels beside the images
_IMAGENET = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_BY_HAND = {
    "imagenet_lt": _IMAGENET,
    "imagenet2012": _IMAGENET,
    "imagenet2012_subset/10pct": _IMAGENET,
    "cifar10_n": ("CIFAR-10_human_annotations.csv", "side_info_cifar10N.csv", "image_order_c10.npy"),
    "cifar100_n": ("CIFAR-100_human_annotations.csv", "image_order_c100.npy"),
}
"""Files that tfds wants in `data.raw_dir`, by data set."""

_SHARES = {"imagenet_lt": 0.15, "imagenet2012_subset/10pct": 0.15}
"""About which part of the archives' bytes is written, where it is not all."""

_PATHS = (
    *("data.record", "data.posterior", "data.confidences", "data.human_labels"),
    *("model.pretrained", "model.init", "weight_net.init"),
)
_OF_BIAS = ("posterior", "confidences", "human_labels")  # needs of a bias, and fields of the section `data`
_WITH_HUMAN_LABELS = ("cifar10_n", "cifar100_n")

Readers = Mapping[str, Callable[[], str]]
"""Field of the config -> reads what it names as a run would, and says what it is; raises a UsageError."""


def examine(config: ConfigDict, readers: Readers = MappingProxyType({})) -> Iterator[Finding]:
    """Examines the data of a config; writes nothing.

    Args:
        config: a checked config.
        readers: for the fields that are read; of others that name a file, only its existence is examined.

    Yields:
        The findings, in the order in which a run would meet them.
    """
    for name in _PATHS:
        path = config[name.split(".")[0]][name.split(".")[1]]
        if path and name in readers:
            yield from _as_findings(_of_reading(name, path, readers[name]))
        elif path:
            there = os.path.exists(os.path.expanduser(path))
            yield Finding(
                f"{name}: {path!r} {'is there' if there else 'does not exist: check the path'}", not there
            )
    fields, reading = config.data, (fit_of(config), config.data.workers)
    needed = frozenset() if config.data.record else bias.needs(config.data.bias)
    for need in _OF_BIAS:
        has_own = need == "human_labels" and fields.name in _WITH_HUMAN_LABELS
        if need in needed and not has_own and not fields[need]:
            yield Finding(f"data.{need} is empty, which the bias {config.data.bias!r} needs: set it", True)
    splits, classes = yield from _as_findings(_of_training_set(fields, *reading))
    if "foreign" in needed:
        other = fields.open_set_from
        options = prepare.options_of(fields, other)
        yield from _as_findings(_of_set(other, fields.dir, fields.open_set_raw_dir, *reading, options))
    second = fields.also_test
    if second == fields.name and fields.also_test_raw_dir in ("", fields.raw_dir):
        yield Finding(
            f"data.also_test is {second!r}, the set that the run trains and tests on already: name another set "
            f"or split",
            True,
        )
    elif second in prepare.DATASETS:
        options = prepare.options_of(fields, second)
        found = _of_set(second, fields.dir, fields.also_test_raw_dir, *reading, options)
        _, others = yield from _as_findings(found, also_test.under_its_fields)
        if classes and others:
            yield from _as_findings(_of_classes(second, others, classes))
    elif second and splits:
        yield from _of_split(second, fields.name, splits)


def _as_findings(findings: Findings, context: Callable = contextlib.nullcontext) -> Findings:
    """Makes an error of a set the last finding about it; then its splits are not known."""
    try:
        with context():
            return (yield from findings)
    except UsageError as error:
        yield Finding(str(error), True)
        return (), ()


def _of_reading(name: str, path: str, read: Callable[[], str]) -> Findings:
    yield Finding(f"{name}: {path!r} is {read()}")
    return (), ()


def _of_classes(second: str, others: Sequence[str], classes: Sequence[str]) -> Findings:
    """How many classes of the second set the training set has."""
    count = int(np.sum(also_test.found_classes(second, others, classes) >= 0))
    yield Finding(f"data.also_test: of {second}'s {len(others):,} classes, the training set has {count:,}")
    return (), ()


def _of_split(second: str, name: str, splits: Sequence[str]) -> Iterator[Finding]:
    """Whether the set has a split of the name in `data.also_test`, which the run does not use already."""
    tested = prepare.TFDS_TEST_SPLITS.get(name) or next((own for own in TEST_SPLITS if own in splits), "")
    others = [split for split in splits if split not in ("train", tested)]
    if second in others:
        yield Finding(f"data.also_test: {second!r} is a split of {name}")
    else:
        yield Finding(str(unknown_name("data.also_test", second, (*others, *prepare.DATASETS))), True)


def _of_training_set(fields: ConfigDict, fit: Fit, workers: int) -> Findings:
    prepare.check_can_train(fields.name)
    return (
        yield from _of_set(fields.name, fields.dir, fields.raw_dir, fit, workers, prepare.options_of(fields))
    )


def _of_set(
    name: str, data_dir: str, raw_dir: str, fit: Fit, workers: int, options: Mapping[str, str] | None = None
) -> Findings:
    root = prepare.data_root(data_dir)
    if name not in BUILDERS:
        return (yield from _of_tfds(name, root, raw_dir))
    if BUILDERS[name].WANTS and not raw_dir:
        return (yield from _prepared(prepare.only_one(BUILDERS[name], root)))
    if issubclass(BUILDERS[name], FilesBuilder) and os.path.exists(os.path.expanduser(raw_dir)):
        yield Finding(f"listing the files in {raw_dir!r}; if there are millions, this takes a while")
    builder = BUILDERS[name](data_dir=os.fspath(root), raw_dir=raw_dir, **(options or {}))
    yield from _of_files(builder, root, raw_dir, fit, workers)
    return tuple(builder.contents.sizes), tuple(builder.contents.class_names)


def _prepared(folder: Path) -> Findings:
    """A prepared set, whose files have the sizes and the checksums that they were given."""
    info = prepare.opened(folder).info
    splits = info.splits
    sizes = ", ".join(f"{split.num_examples:,} in {name}" for name, split in splits.items())
    yield Finding(f"prepared in {str(folder)!r}: {sizes}; its files are unchanged")
    return tuple(splits), tuple(info.features["label"].names)


def _of_tfds(name: str, root: Path, raw_dir: str) -> Findings:
    """A set that tfds builds: prepared, or what it will need."""
    folder = prepare.newest(root / name)
    if folder is not None:
        return (yield from _prepared(folder))
    if importlib.util.find_spec("tensorflow") is None:
        yield Finding("TensorFlow is not installed, which tfds needs once: pip install tensorflow-cpu", True)
    sizes = _listed_sizes(name.partition("/")[0])
    wanted = _BY_HAND.get(name, ())
    known = _listed_sizes("imagenet2012") if wanted == _IMAGENET else {}
    if wanted and os.path.isfile(os.path.expanduser(raw_dir)):
        yield Finding(
            f"data.raw_dir is {raw_dir!r}, a file, expected the folder that it lies in: give that", True
        )
        return (), ()
    for file in wanted:
        yield _by_hand(Path(os.path.expanduser(raw_dir)) / file if raw_dir else None, file, known.get(file))
    downloads = sum(size for file, size in sizes.items() if file not in wanted)
    said = f" of {shown_bytes(downloads)}" if downloads else ""
    place = str(root / "downloads")
    yield Finding(f"{name} is not prepared yet; tfds will download what it needs{said} into {place!r}")
    if known:
        size = shown_bytes(sum(known.values()))
        yield Finding(f"tfds reads {size} of archives once; how long that takes is not estimated")
    if needed := 2 * downloads + round(_SHARES.get(name, 1) * sum(known.values())):
        yield _disk(root, needed)
    else:
        yield Finding(f"how much will be written to {str(root)!r} is not known")
    return (), ()


def _by_hand(path: Path | None, file: str, size: int | None) -> Finding:
    """A file that has to be in `data.raw_dir`, and its size if that is known."""
    if path is None:
        return Finding(f"data.raw_dir is empty, expected a folder with {file}: download it by hand", True)
    if not path.is_file():
        return Finding(f"{str(path)!r} is missing: download it by hand", True)
    found = path.stat().st_size
    if size is not None and found != size:
        return Finding(f"{str(path)!r} has {found:,} bytes, expected {size:,}: fetch it again", True)
    return Finding(f"{str(path)!r} is there, {shown_bytes(found)}")


def _listed_sizes(name: str) -> dict[str, int]:
    """Sizes of a set's files by name, as the installed tfds lists them; empty if it has no list."""
    package = Path(tfds.__file__).parent
    lists = (package / "url_checksums" / f"{name}.txt", package / "datasets" / name / "checksums.tsv")
    lines = [line.split() for path in lists if path.exists() for line in path.read_text().splitlines()]
    return {line[0].rpartition("/")[2]: int(line[1]) for line in lines if line[1:] and line[1].isdecimal()}


def _of_files(builder: LocalBuilder, root: Path, raw_dir: str, fit: Fit, workers: int) -> Iterator[Finding]:
    """A set of the user's files, which listing them has found."""
    contents, folder = builder.contents, Path(builder.data_dir)
    try:
        sizes = " and ".join(f"{count:,} in {split}" for split, count in contents.sizes.items())
        where = f", in {raw_dir!r}" if raw_dir else ""
        yield Finding(f"{len(contents.class_names):,} classes, {sizes}{where}")
        yield from (Finding(f"note: {note}") for note in contents.notes)
        if contents.image_files is not None:
            yield from _of_images(contents.image_files, fit, workers)
        if folder.exists():
            yield from _prepared(folder)
        else:
            yield _disk(root, round(_OVERHEAD * contents.num_bytes))
    except OSError as error:
        yield Finding(f"{raw_dir!r} cannot be read ({first_line(error)})", True)
    finally:
        contents.close()


def _of_images(contents: ImageFiles, fit: Fit, workers: int) -> Iterator[Finding]:
    """Empty files, and a sample that is read whole, which gives the times."""
    empty = contents.empty_files()
    if empty:
        count = f"{len(empty):,} files are" if len(empty) > 1 else "1 file is"
        yield Finding(f"{count} empty, the first {empty[0]!r}: fetch anew", True)
    bad, shapes, checked, seconds, decoding = [], set(), 0, 0.0, 0.0
    for split, count in contents.sizes.items():
        for row in np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)):
            item, started = contents.items(split)[row], time.perf_counter()
            data, problem = contents.checked(item)
            seconds, checked = seconds + time.perf_counter() - started, checked + 1
            if problem:
                bad.append(f"{item.path!r}: {problem}")
                continue
            started = time.perf_counter()
            shapes.add(fit(contents.decode(data), np.random.default_rng(0)).shape[:2])
            decoding += time.perf_counter() - started
    if bad:
        yield Finding(f"{len(bad)} of {checked} images tried cannot be used, the first {bad[0]}", True)
        return
    yield Finding(f"{checked} images, evenly spaced, were read whole: none is damaged")
    if len(shapes) > 1:
        some = " and ".join(f"{height}x{width}" for height, width in sorted(shapes)[:2])
        yield Finding(f"data.crop_pixels is 0, but images differ in size, e.g. {some}: set it", True)
    yield from _times(contents.sizes, seconds / checked, decoding / checked, workers)


def _times(sizes, checking: float, decoding: float, workers: int) -> Iterator[Finding]:
    """Estimates from seconds per image."""
    whole = checking * sum(sizes.values()) / PREPARING_THREADS
    yield Finding(
        f"preparing will take about {shown_duration(whole)}, once (an estimate: {1e3 * checking:.2g} ms an "
        f"image to read and check, {PREPARING_THREADS} at a time)"
    )
    if "train" not in sizes:
        return
    readers = workers or os.cpu_count() or 1
    epoch = decoding * sizes["train"] / readers
    yield Finding(
        f"if it is streamed, an epoch takes at least {shown_duration(epoch)} (an estimate: "
        f"{1e3 * decoding:.2g} ms an image to decode and crop, {readers} at a time; data.workers is {workers})"
    )


def _disk(root: Path, needed: int) -> Finding:
    place = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        return Finding(f"{str(place)!r} cannot be written: set --config.data.dir to another folder", True)
    text = f"about {shown_bytes(needed)} will be written to {str(root)!r}, where"
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:  # not every file system says
        return Finding(f"{text} it is not known how much is free ({first_line(error)}): see to it yourself")
    text = f"{text} {shown_bytes(free)} are free"
    return Finding(text if free > needed else f"{text}: make room, or set --config.data.dir", free <= needed)


def print_report(config: ConfigDict, readers: Readers = MappingProxyType({})) -> bool:
    """Examines the data of a config, and prints each finding as soon as it is known, then the verdict.

    Args:
        config: any valid config.
        readers: as in `examine`.

    Returns:
        Whether nothing is wrong.
    """
    findings, screen = [], console()
    for finding in examine(config, readers):
        screen.print(report_line(finding), soft_wrap=True)
        findings.append(finding)
    screen.print(verdict(findings))
    return not any(finding.is_problem for finding in findings)
