"""Loads a run's data: the data set that a config names, with the config's bias applied."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import bias, kinds, meta_set, sources
from cmwnet_jax.data.also_test import SPLIT as ALSO_TEST
from cmwnet_jax.data.also_test import AlsoTest, open_also_test
from cmwnet_jax.data.batches import Raw
from cmwnet_jax.data.bias.similar import shown_names
from cmwnet_jax.data.bias_record import Record, load_record
from cmwnet_jax.data.checksums import labels_checksum
from cmwnet_jax.data.fit import Fit
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.data.image_sizes import check_one_size
from cmwnet_jax.data.prepare import options_of
from cmwnet_jax.data.probabilities import HINTS, check_class_order, load_probabilities
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.data.streaming import StreamedSplit
from cmwnet_jax.data.truth import check_known_as, is_truth_known
from cmwnet_jax.errors import UsageError, naming_field

_DEVICE_LIMIT = 2 << 30  # bytes of pixels up to which "auto" keeps a set on each device


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Training and test data of a run.

    Attributes:
        source: the data set without the bias.
        record: the bias that was applied.
        true_labels: [training split] int32, the data set's own labels.
        splits: `train` and `test`; `held_out` and `calibration`, if examples are set apart; `labelled`, the
            examples of `train` that have a label, if others have none; `also_test`, the second test split, if
            there is one. In memory (`Raw`) or streamed.
        test_labels: [N test] int32.
        image_shape: shape of the network's input: (height, width, channels), or (d,) or (length,).
        kind: one of `kinds.DTYPES`.
        also_test: the second test split; None for none.
        known_as: the published set that a user's own files are; empty for none.
    """

    source: sources.Source
    record: Record
    true_labels: np.ndarray
    splits: dict[str, Raw] | dict[str, StreamedSplit]
    test_labels: np.ndarray
    image_shape: tuple[int, ...]
    kind: str = kinds.IMAGES
    also_test: AlsoTest | None = None
    known_as: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names for tables and pictures: the published ones, where the files have numbers."""
        return shown_names(self.source.class_names, self.known_as)

    @property
    def biased(self) -> bias.BiasedLabels:
        """The given training labels, with the true ones."""
        return self.record.labels

    def blank(self) -> np.ndarray:
        """One example of zeros as the network sees it, [1, *image_shape] float32, or int32 for tokens."""
        return np.zeros((1, *self.image_shape), np.int32 if self.kind == kinds.TOKENS else np.float32)


def load_data(config: ConfigDict) -> Data:
    """Loads the data set and applies the config's bias, or a saved one.

    Args:
        config: the run's config, checked.

    Raises:
        UsageError: a field of the config is wrong, in general or for this data set.
    """
    options = options_of(config.data)
    source = sources.open(config.data.name, config.data.dir, config.data.raw_dir, options=options)
    if source.num_classes < 2:
        raise UsageError(
            f"data.name is {source.name!r}, whose training set has {source.num_classes} class, expected at "
            f"least 2: there is nothing to tell apart"
        )
    check_known_as(config.data.known_as, source.num_classes)
    first = source.train[0]["image"]
    kind = kinds.kind_of(first.dtype)
    _check_kind(config, kind)
    dataset = None
    if _on_device(config, source, first.nbytes):
        dataset = sources.read(source)
        true_labels, test_labels = dataset.train.labels, dataset.test.labels
    else:
        true_labels, test_labels = (sources.read_labels(source, s) for s in ("train", source.test_split))
    record = _record(config, source, dataset, true_labels)
    second = open_also_test(config, source)
    has_foreign = record.labels.foreign is not None and dataset is not None
    foreign = _foreign_of(config, record) if has_foreign else None
    if dataset is None:
        splits = _streamed(config, source, record, true_labels, test_labels, second)
        shape = splits["train"].read(np.arange(1)).image.shape[1:]
    else:
        splits = _raws(dataset, record, foreign)
        shape = splits["train"].image.shape[1:]
        if second is not None:
            read = sources.read_split(second.source, second.split)
            second = second.in_order_of(read.labels)
            splits[ALSO_TEST] = Raw.whole(read.images[second.ids], second.labels)
    if second is not None:
        _check_inputs(config, source, second, splits, shape)
    record = dataclasses.replace(record, files=_hashes(source, second, foreign, test_labels))
    return Data(source, record, true_labels, splits, test_labels, shape, kind, second, config.data.known_as)


def _hashes(
    source: sources.Source,
    second: AlsoTest | None,
    foreign: sources.Source | None,
    test_labels: np.ndarray,
) -> dict[str, str]:
    """`Record.files` of data sets that may be None."""
    opened = {"name": source, "also_test": None if second is None else second.source, "open_set_from": foreign}
    files = {f"data.{field}": other.files for field, other in opened.items() if other is not None}
    known = {field: hash for field, hash in files.items() if hash}
    return known | {"the test labels": labels_checksum(test_labels)}


def _check_inputs(config, source: sources.Source, second: AlsoTest, splits: dict, shape) -> None:
    """Raises a UsageError if the network cannot take the inputs of the second test split."""
    own, other = (splits[name].take(np.zeros(1, np.int32)).image for name in ("train", ALSO_TEST))
    if (own.shape, own.dtype) != (other.shape, other.dtype):
        raise UsageError(
            f"data.also_test is {config.data.also_test!r}, whose inputs are {other.dtype} "
            f"{list(other.shape[1:])}, expected {own.dtype} {list(shape)} as in training: set "
            f"data.crop_pixels, which brings images to one size, or take another set"
        )
    if second.source.vocabulary > source.vocabulary:
        raise UsageError(
            f"data.also_test is {config.data.also_test!r}, which has {second.source.vocabulary} tokens, "
            f"expected at most the {source.vocabulary} of {source.name}: number its tokens as there"
        )


_SIZES = ("resize_pixels", "crop_pixels", "resize_up_to_pixels", "least_area_percent")
"""Fields of `data` about the sizes of streamed images."""


def _check_kind(config: ConfigDict, kind: str) -> None:
    """Raises a UsageError for fields that are for images only."""
    for field in _SIZES:
        if config.data[field] and kind != kinds.IMAGES:
            raise UsageError(
                f"data.{field} is {config.data[field]}, but {config.data.name} holds {kind}, expected images: "
                f"leave it 0"
            )


def fit_of(config: ConfigDict) -> Fit:
    """How the config brings streamed images to one size.

    Args:
        config: the run's config.
    """
    fields = config.data
    return Fit(
        fields.resize_pixels,
        fields.crop_pixels,
        fields.resize_up_to_pixels,
        fields.least_area_percent / 100,
    )


def _on_device(config: ConfigDict, source: sources.Source, example_bytes: int) -> bool:
    """Whether the set is kept on the devices: as the config says, or by its size."""
    if config.data.path != "auto":
        return config.data.path == "device"
    if config.data.resize_pixels or config.data.crop_pixels:
        return False
    return example_bytes * (len(source.train) + len(source.test)) <= _DEVICE_LIMIT


def _record(
    config: ConfigDict, source: sources.Source, dataset: sources.Dataset | None, true_labels: np.ndarray
) -> Record:
    """The saved bias that the config names, or the config's bias, applied now."""
    if config.meta_set.kind == "held_out" and not _truth_known(config, source):
        raise UsageError(
            f"meta_set.kind is 'held_out', but {source.name}'s labels are not known to be right: use "
            f"lowest_loss or balanced, or set data.truth to 'known' if they are right"
        )
    if config.data.record:
        with naming_field("data.record"):
            record = load_record(config.data.record, dataset=source.name, true_labels=true_labels)
        if config.meta_set.kind == "held_out" and record.held_out is None:
            raise UsageError(
                f"meta_set.kind is 'held_out', but the record in {config.data.record} has set nothing apart: "
                f"use a record of a run that has"
            )
        if config.data.calibration_per_class and record.calibration is None:
            raise UsageError(
                f"data.calibration_per_class is {config.data.calibration_per_class}, but the record in "
                f"{config.data.record} has set no calibration split apart: set it to 0, or use a record of a "
                f"run that has"
            )
        known = _truth_known(config, source) and (record.labels.truth_known or config.data.truth == "known")
        return dataclasses.replace(record, labels=dataclasses.replace(record.labels, truth_known=known))
    labels, held_out, calibration = bias.BiasedLabels.clean(true_labels, source.num_classes), None, None
    labels = dataclasses.replace(labels, truth_known=_truth_known(config, source))
    if config.meta_set.kind == "held_out":
        held_out, labels = meta_set.hold_out(
            labels, config.meta_set.per_class_examples, generator(config.seed, Purpose.HOLD_OUT)
        )
    if config.data.calibration_per_class:
        field, rng = "data.calibration_per_class", generator(config.seed, Purpose.CALIBRATION)
        calibration, labels = meta_set.hold_out(labels, config.data.calibration_per_class, rng, field)
    if source.has_given_labels:
        labels = labels.relabel(sources.read_labels(source, "train", "given_label")[labels.ids])
    needed = _needed(config, source, dataset, true_labels)
    known_as = config.data.known_as or source.name
    with naming_field("data.bias"):
        labels = bias.apply(
            config.data.bias, labels, known_as, config.seed, class_names=source.class_names, **needed
        )
    return Record(labels, config.data.bias, config.seed, source.name, held_out, calibration)


def _truth_known(config: ConfigDict, source: sources.Source) -> bool:
    if source.has_given_labels and config.data.truth == "auto":
        return True
    return is_truth_known(source.name, config.data.truth, config.data.known_as)


def _needed(
    config: ConfigDict, source: sources.Source, dataset: sources.Dataset | None, true_labels: np.ndarray
) -> dict:
    """Further inputs of the bias besides labels, from the config fields that name them."""
    needs = bias.needs(config.data.bias)
    needed = {}
    if needs - {"confidences"} and dataset is None:
        raise UsageError(
            f"data.bias is {config.data.bias!r}, which is for sets in memory, but data.path is "
            f"{config.data.path!r}: set it to 'device'"
        )
    for name in HINTS:
        if name in needs:
            needed[name] = _probabilities(config, name, source, true_labels)
    if "human_labels" in needs:
        with naming_field("data.human_labels"):
            needed["human_labels"] = human_labels(config.data.human_labels, dataset)
    if "foreign" in needs:
        foreign = _foreign(config)
        needed["foreign"] = bias.ForeignSet(foreign.name, len(foreign.train))
    return needed


def _probabilities(
    config: ConfigDict, name: str, source: sources.Source, true_labels: np.ndarray
) -> np.ndarray:
    """[training split, C], class probabilities from the file that a field of `data` names."""
    field, path, shape = f"data.{name}", config.data[name], (len(true_labels), source.num_classes)
    named = {"true_labels": true_labels, "class_names": source.class_names}
    values = load_probabilities(field, path, shape, HINTS[name], **named)
    check_class_order(field, path, values, true_labels)
    return values


def _foreign(config: ConfigDict) -> sources.Source:
    name, fields = config.data.open_set_from, config.data
    return sources.open(name, fields.dir, fields.open_set_raw_dir, options=options_of(fields, name))


def _foreign_of(config: ConfigDict, record: Record) -> sources.Source:
    """The data set of a record's foreign images; raises a UsageError if it is not the config's."""
    other = _foreign(config)
    if other.name != record.labels.foreign_dataset:
        raise UsageError(
            f"data.open_set_from is {other.name!r}, but the record's images are of "
            f"{record.labels.foreign_dataset!r}: set it to that"
        )
    return other


def _raws(dataset: sources.Dataset, record: Record, other: sources.Source | None) -> dict[str, Raw]:
    labels = record.labels
    foreign = None if other is None else sources.read_split(other, "train").images
    splits = {
        "train": Raw.whole(bias.shown_images(labels, dataset.train.images, foreign), labels.given),
        "test": Raw.whole(dataset.test.images, dataset.test.labels),
    }
    for name, ids in _set_apart(record).items():
        splits[name] = Raw.whole(dataset.train.images[ids], dataset.train.labels[ids])
    if not labels.is_labelled.all():
        rows = labels.is_labelled
        splits["labelled"] = Raw.whole(splits["train"].image[rows], labels.given[rows])
    return splits


def _set_apart(record: Record) -> dict[str, np.ndarray]:
    """Ids of the training examples in each split that training never sees."""
    splits = {"held_out": record.held_out, "calibration": record.calibration}
    return {name: ids for name, ids in splits.items() if ids is not None}


def _streamed(
    config: ConfigDict,
    source: sources.Source,
    record: Record,
    true_labels: np.ndarray,
    test_labels: np.ndarray,
    second: AlsoTest | None,
) -> dict[str, StreamedSplit]:
    if record.labels.foreign is not None:
        raise UsageError(
            "data.record is of an open-set bias, which is for sets in memory: set data.path to 'device', and "
            "no resize_pixels or crop_pixels"
        )
    fit = fit_of(config)
    check_one_size(source, fit, None if second is None else (second.source, second.split))
    options = {
        "fit": fit,
        "workers": config.data.workers,
        "prefetch": config.data.prefetch_batches,
    }
    splits = {
        "train": StreamedSplit(source.train, record.labels.ids, record.labels.given, **options),
        "test": StreamedSplit(source.test, np.arange(len(test_labels)), test_labels, **options),
    }
    for name, ids in _set_apart(record).items():
        splits[name] = StreamedSplit(source.train, ids, true_labels[ids], **options)
    if second is not None:
        records = second.source.splits[second.split]
        splits[ALSO_TEST] = StreamedSplit(records, second.ids, second.labels, **options)
    labels = record.labels
    if not labels.is_labelled.all():
        rows = labels.is_labelled
        splits["labelled"] = StreamedSplit(source.train, labels.ids[rows], labels.given[rows], **options)
    return splits
