"""Turns a config's names into data: the set, the bias on it, its meta-classes, its input path."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.data import bias, meta_set, sources
from cmwnet_jax.data.augment import Augmentation, augment, pixel_moments
from cmwnet_jax.data.batches import Raw, TrainOrder
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.data.image_sizes import check_one_size
from cmwnet_jax.data.probabilities import check_class_order, load_probabilities
from cmwnet_jax.data.record import Record, load_record
from cmwnet_jax.data.stream import Fit, Stream
from cmwnet_jax.data.streams import Purpose, stream
from cmwnet_jax.data.truth import check_known_as, is_truth_known
from cmwnet_jax.errors import UsageError, about
from cmwnet_jax.meta_classes import MetaClasses
from cmwnet_jax.train import parallel
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.evaluate import Measured
from cmwnet_jax.train.inputs import DeviceInput, Input, StreamInput, make_prepare
from cmwnet_jax.train.methods import METHODS, kind_of

_DEVICE_LIMIT = 2 << 30  # bytes of pixels that "auto" still puts on each device


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What a run trains and tests on.

    Attributes:
        source: the data set as it came.
        record: the bias as it came out, with its meta-classes.
        true_labels: [training split] int32, the data set's own labels.
        splits: `train`, `test` and, maybe, `held_out`, in memory (`Raw`) or streams.
        test_labels: [N test] int32.
        image_shape: (height, width, channels) that the network sees.
    """

    source: sources.Source
    record: Record
    true_labels: np.ndarray
    splits: dict[str, Raw] | dict[str, Stream]
    test_labels: np.ndarray
    image_shape: tuple[int, int, int]

    @property
    def biased(self) -> bias.BiasedLabels:
        """The training labels as given, and the truth about them."""
        return self.record.labels

    @property
    def meta_classes(self) -> MetaClasses:
        """The meta-class of each class, by given labels."""
        return self.record.meta_classes


def build_data(config: ConfigDict) -> Data:
    """Loads the data set and puts the config's bias on it, or a saved record's.

    Raises:
        UsageError: a field of the config is wrong, by itself or for this data set.
    """
    check_config(config)
    source = sources.open(config.data.name, config.data.dir, config.data.raw_dir)
    if source.num_classes < 2:
        raise UsageError(
            f"data.name is {source.name!r}, whose training set has {source.num_classes} class, expected at "
            f"least 2: there is nothing to tell apart"
        )
    check_known_as(config.data.known_as, source.num_classes)
    dataset = None
    if _on_device(config, source):
        dataset = sources.load(config.data.name, config.data.dir, config.data.raw_dir)
        true_labels, test_labels = dataset.train.labels, dataset.test.labels
    else:
        true_labels, test_labels = (sources.read_labels(source, s) for s in ("train", source.test_split))
    record = _record(config, source, dataset, true_labels)
    _check_candidates(config, record)
    _check_batch_size(config, record)
    if dataset is None:
        splits = _streams(config, source, record, true_labels, test_labels)
        shape = splits["train"].read(np.arange(1)).image.shape[1:]
    else:
        splits = _raws(config, dataset, record)
        shape = splits["train"].image.shape[1:]
    return Data(source, record, true_labels, splits, test_labels, shape)


def check_augmentation(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Checks that training images can be changed as the config says.

    Args:
        config: the run's.
        image_shape: (height, width, channels).

    Raises:
        UsageError: they are too small for the border, or not of the channels that RandAugment knows.
    """
    change, side = Augmentation(**config.augment), min(image_shape[:2])
    if change.pad_pixels >= side:
        raise UsageError(
            f"augment.pad_pixels is {change.pad_pixels}, expected fewer than the images' shorter side, {side}, "
            f"of which a crop could show nothing: lower it"
        )
    images, row = np.zeros((1, *image_shape), np.uint8), np.zeros(1, np.int32)
    jax.eval_shape(lambda key: augment(images, row, key, change), jax.random.key(0))


def build_input(config: ConfigDict, data: Data, first_step: int, one_step_a_call: bool) -> Input:
    """The data's input path.

    Args:
        config: the run's.
        data: the run's.
        first_step: number of the first step that will be asked for.
        one_step_a_call: whether the device path calls the step from Python.
    """
    train = data.splits["train"]
    mean, std = pixel_moments(_sample(train))
    prepare = make_prepare(Augmentation(**config.augment), mean, std)
    if isinstance(train, Raw):
        return DeviceInput(data.splits, prepare, one_step_a_call)
    return StreamInput(data.splits, prepare, train_order(config, data), first_step)


def train_order(config: ConfigDict, data: Data) -> TrainOrder:
    """The rows of every step."""
    return TrainOrder(config.seed, len(data.biased.ids), config.batch_size)


def num_meta_classes(config: ConfigDict) -> int:
    """K: methods whose weights do not look at the class have one, whatever the weight net's field says."""
    return config.weight_net.num_meta_classes if METHODS[config.method].has_meta_classes else 1


def needs_losses(config: ConfigDict) -> bool:
    """Whether the choice of the meta set looks at the training examples' losses or predictions."""
    return config.meta_set.kind == "lowest_loss" or config.meta_set.pseudo_labels


def build_meta_set(
    config: ConfigDict, data: Data, epoch: int, measured: Measured | None
) -> tuple[str, meta_set.MetaSet]:
    """This epoch's meta set: the split that it is of, and its rows and labels.

    Args:
        config: the run's.
        data: the run's.
        epoch: number of the epoch, from 0.
        measured: what the current classifier makes of the training examples; None where `needs_losses`
            says that nobody looks.
    """
    labels, classes = data.biased.given, data.source.num_classes
    size = config.meta_set.per_class_examples
    if config.meta_set.kind == "held_out":
        ids = data.record.held_out
        return "held_out", meta_set.MetaSet(np.arange(len(ids)), data.true_labels[ids])
    if config.meta_set.kind == "balanced":
        rows = meta_set.balanced(labels, classes, size, stream(config.seed, Purpose.BALANCED_META_SET, epoch))
    else:
        rows = meta_set.lowest_loss(measured.losses, labels, classes, size)
    return "train", meta_set.with_labels(
        rows, measured.predictions if config.meta_set.pseudo_labels else labels
    )


def _on_device(config: ConfigDict, source: sources.Source) -> bool:
    """Whether the set lives on the devices: as the config says, or where it is small enough."""
    if config.data.path != "auto":
        return config.data.path == "device"
    if config.data.resize_pixels or config.data.crop_pixels:
        return False
    pixels = source.train[0]["image"].size
    return pixels * (len(source.train) + len(source.test)) <= _DEVICE_LIMIT


def _record(
    config: ConfigDict, source: sources.Source, dataset: sources.Dataset | None, true_labels: np.ndarray
) -> Record:
    """The saved record that the config names, or the bias that it asks for, applied now."""
    if config.meta_set.kind == "held_out" and not _truth_known(config, source):
        raise UsageError(
            f"meta_set.kind is 'held_out', but {source.name}'s labels are not known to be right: use "
            f"lowest_loss or balanced, or set data.truth to 'known' if they are right"
        )
    if config.data.record:
        with about("data.record"):
            record = load_record(config.data.record, dataset=source.name, true_labels=true_labels)
        if config.meta_set.kind == "held_out" and record.held_out is None:
            raise UsageError(
                f"meta_set.kind is 'held_out', but the record in {config.data.record} has set nothing apart: "
                f"use a record of a run that has"
            )
        known = _truth_known(config, source) and (record.labels.truth_known or config.data.truth == "known")
        labels = dataclasses.replace(record.labels, truth_known=known)
        return dataclasses.replace(record, labels=labels, meta_classes=_meta_classes(config, labels))
    labels, held_out = bias.BiasedLabels.clean(true_labels, source.num_classes), None
    labels = dataclasses.replace(labels, truth_known=_truth_known(config, source))
    if config.meta_set.kind == "held_out":
        held_out, labels = meta_set.hold_out(
            labels, config.meta_set.per_class_examples, stream(config.seed, Purpose.HOLD_OUT)
        )
    needed = _needed(config, source, dataset, true_labels)
    known_as = config.data.known_as or source.name
    with about("data.bias"):
        labels = bias.apply(
            config.data.bias, labels, known_as, config.seed, class_names=source.class_names, **needed
        )
    classes = _meta_classes(config, labels)
    return Record(labels, config.data.bias, config.seed, source.name, classes, held_out=held_out)


def _truth_known(config: ConfigDict, source: sources.Source) -> bool:
    return is_truth_known(source.name, config.data.truth, config.data.known_as)


def _meta_classes(config: ConfigDict, labels: bias.BiasedLabels) -> MetaClasses:
    with about("weight_net"):
        return MetaClasses.fit(labels.class_counts, num_meta_classes(config))


def _needed(
    config: ConfigDict, source: sources.Source, dataset: sources.Dataset | None, true_labels: np.ndarray
) -> dict:
    """What the bias needs besides labels, from the fields that name it."""
    needs = bias.needs(config.data.bias)
    needed = {}
    if needs - {"confidences"} and dataset is None:
        raise UsageError(
            f"data.bias is {config.data.bias!r}, which is for sets in memory, but data.path is "
            f"{config.data.path!r}: set it to 'device'"
        )
    if "posterior" in needs:
        hint = "write one with python -m cmwnet_jax.data posterior"
        needed["posterior"] = _probabilities(config, "posterior", hint, source, true_labels)
    if "confidences" in needs:
        hint = "e.g. confidences.npy in the folder of a finished run with the method proden"
        needed["confidences"] = _probabilities(config, "confidences", hint, source, true_labels)
    if "human_labels" in needs:
        with about("data.human_labels"):
            needed["human_labels"] = human_labels(config.data.human_labels, dataset)
    if "foreign" in needs:
        foreign = _foreign(config)
        needed["foreign"] = bias.ForeignSet(foreign.name, len(foreign.train))
    return needed


def _probabilities(
    config: ConfigDict, name: str, hint: str, source: sources.Source, true_labels: np.ndarray
) -> np.ndarray:
    """[training split, C], the class probabilities in the file that a field of `data` names."""
    field, path, shape = f"data.{name}", config.data[name], (len(true_labels), source.num_classes)
    names = source.class_names
    values = load_probabilities(field, path, shape, hint, true_labels=true_labels, class_names=names)
    check_class_order(field, path, values, true_labels)
    return values


def _foreign(config: ConfigDict) -> sources.Dataset:
    return sources.load(config.data.open_set_from, config.data.dir, config.data.open_set_raw_dir)


def _check_candidates(config: ConfigDict, record: Record) -> None:
    """Candidate sets are for methods that learn from such, single labels for all others."""
    has, wants = record.labels.candidates is not None, METHODS[config.method].from_candidates
    if has and not wants:
        raise UsageError(
            f"method is {config.method!r}, which takes one label an example, but {record.name!r} gives "
            f"candidate sets: train with method 'proden' first, then with data.bias 'confidences' and "
            f"data.confidences, that run's confidences.npy"
        )
    if wants and not has:
        raise UsageError(
            f"method is {config.method!r}, which learns from candidate sets, but {record.name!r} gives single "
            f"labels: set data.bias to e.g. 'partial_10'"
        )


def _raws(config: ConfigDict, dataset: sources.Dataset, record: Record) -> dict[str, Raw]:
    labels = record.labels
    foreign = None
    if labels.foreign is not None:
        other = _foreign(config)
        if other.name != labels.foreign_dataset:
            raise UsageError(
                f"data.open_set_from is {other.name!r}, but the record's images are of "
                f"{labels.foreign_dataset!r}: set it to that"
            )
        foreign = other.train.images
    splits = {
        "train": Raw.whole(bias.shown_images(labels, dataset.train.images, foreign), labels.given),
        "test": Raw.whole(dataset.test.images, dataset.test.labels),
    }
    if record.held_out is not None:
        ids = record.held_out
        splits["held_out"] = Raw.whole(dataset.train.images[ids], dataset.train.labels[ids])
    return splits


def _streams(config, source, record, true_labels, test_labels) -> dict[str, Stream]:
    if record.labels.foreign is not None:
        raise UsageError(
            "data.record is of an open-set bias, which is for sets in memory: set data.path to 'device', and "
            "no resize_pixels or crop_pixels"
        )
    fit = Fit(config.data.resize_pixels, config.data.crop_pixels)
    check_one_size(source, fit)
    options = {
        "fit": fit,
        "workers": config.data.workers,
        "prefetch": config.data.prefetch_batches,
    }
    splits = {
        "train": Stream(source.train, record.labels.ids, record.labels.given, **options),
        "test": Stream(source.test, np.arange(len(test_labels)), test_labels, **options),
    }
    if record.held_out is not None:
        splits["held_out"] = Stream(source.train, record.held_out, true_labels[record.held_out], **options)
    return splits


def _sample(train: Raw | Stream) -> np.ndarray:
    """Images to take mean and deviation of: all that are in memory, else 1,000 spread evenly."""
    if isinstance(train, Raw):
        return train.image
    return train.read(np.unique(np.linspace(0, len(train) - 1, 1000).astype(np.int32))).image


def _check_batch_size(config: ConfigDict, record: Record) -> None:
    biased = record.labels
    if config.batch_size > len(biased.ids):
        raise UsageError(
            f"batch_size is {config.batch_size}, expected at most the {len(biased.ids)} training examples "
            f"that {config.data.name} has under the bias {config.data.bias!r}: lower it"
        )
    parallel.check_divides("batch_size", config.batch_size, config.micro_batches)
    if not kind_of(config).learns_weights:
        return
    parallel.check_divides("meta_set.batch_size", config.meta_set.batch_size, config.micro_batches)
    if config.meta_set.kind == "balanced":
        fewest = int(np.min(biased.class_counts[biased.class_counts > 0]))
    else:
        fewest = config.meta_set.per_class_examples
    size = np.sum(np.minimum(biased.class_counts, min(fewest, config.meta_set.per_class_examples)))
    if config.meta_set.kind == "held_out":
        size = len(record.held_out)
    with about(f"meta_set.per_class_examples is {config.meta_set.per_class_examples}"):
        parallel.round_down("the meta set", int(size), config.micro_batches)
