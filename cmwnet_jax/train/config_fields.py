"""Config fields that the launcher reads with every method. Each method declares its own fields in its file."""

from typing import Any

from cmwnet_jax.data import kinds
from cmwnet_jax.data.augment import PAD_MODES
from cmwnet_jax.data.builders.base import TEST_SPLITS
from cmwnet_jax.data.builders.csv_table import SPECIAL
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.data.texts import ENCODERS
from cmwnet_jax.data.truth import PUBLISHED_CLASSES, TRUTHS
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import DEFAULT, METHODS
from cmwnet_jax.methods.fields import (
    INT32,
    MANY,
    Field,
    between,
    check_entries,
    local_file,
    one_of,
    shown,
    within,
)
from cmwnet_jax.models import MODELS
from cmwnet_jax.train import optimizers

PATHS = ("auto", "device", "stream")
DTYPES = ("float32", "bfloat16")


def _widths(name: str, values: Any) -> None:
    """Checks the widths of hidden layers: whole numbers from 1 to 65,536."""
    if not all(type(width) is int and 1 <= width <= 2**16 for width in values):
        raise UsageError(
            f"{name} is {shown(values)}, expected whole numbers of units, each at least 1 and at most {2**16}"
        )
    check_entries(name, values)


def _label_column(name: str, value: Any) -> None:
    """Checks the name of a table's column of labels."""
    if not value or value in SPECIAL:
        what = f"{value!r}, which has another meaning" if value else "empty"
        raise UsageError(f"{name} is {what}, expected the column of labels: leave it 'label' or name another")


FIELDS = {
    "method": Field(
        DEFAULT,
        "Name of the training method, one of cmwnet_jax.methods.",
        one_of(METHODS),
    ),
    "seed": Field(
        0,
        "Seed of the bias, the initial parameters and the order of the batches.",
        between(0, 2**32 - 1),
    ),
    "num_epochs": Field(
        100,
        "Number of epochs.",
        between(1, MANY),
    ),
    "epoch_steps": Field(
        0,
        "Steps of an epoch, after which the run is tested and the next epoch planned; 0: one pass over the "
        "training set.",
        between(0, INT32),
    ),
    "warmup_epochs": Field(
        10,
        "Number of first epochs with plain cross-entropy, the same for every method (Q9).",
        between(0, MANY),
    ),
    "batch_size": Field(
        100,
        "Training examples per step, over all devices.",
        between(1, INT32),
    ),
    "chunk_steps": Field(
        600,
        "Steps per chunk; the last chunk of an epoch may be shorter. Metrics are checked, checkpoints "
        "written and SIGTERM handled only between chunks, so a chunk should take less time than the grace "
        "period before a SIGKILL. On the device path each chunk length is compiled as one program.",
        between(1, INT32),
    ),
    "data.name": Field(
        "digits",
        "Name of the data set.",
        one_of(DATASETS),
    ),
    "data.dir": Field(
        "",
        "Folder of the prepared data sets; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets.",
        local_file,
    ),
    "data.raw_dir": Field(
        "",
        "Folder, archive or file of the user, for the data sets that need one.",
        local_file,
    ),
    "data.also_test": Field(
        "",
        "A second split to test on, reported under this name: another data set, whose test split is taken and "
        "whose classes are matched to the training set's by name or WordNet identifier (all others are left "
        "out), e.g. imagenet_val; or another split of the set, e.g. val beside test. Empty: none.",
        one_of(("", *TEST_SPLITS, *DATASETS)),
    ),
    "data.also_test_raw_dir": Field(
        "",
        "`raw_dir` of the data set `also_test`.",
        local_file,
    ),
    "data.label_column": Field(
        "label",
        "csv only: name of the column of labels.",
        _label_column,
    ),
    "data.texts": Field(
        kinds.VECTORS,
        "csv with a column `text` only: what texts are made into, vectors (TF-IDF, in at most 300 dimensions) "
        "or tokens (the numbers of at most 64 words); both are fitted on the training split.",
        one_of(ENCODERS),
    ),
    "data.known_as": Field(
        "",
        "For local files: the published data set that they contain (e.g. cifar10), whose map of similar "
        "classes is used; classes are matched by name or by number.",
        one_of(("", *PUBLISHED_CLASSES)),
    ),
    "data.truth": Field(
        "auto",
        "Whether the data set's own labels are taken as true, so that wrong labels can be counted after "
        "the bias: known, unknown or auto (known for published benchmarks, by name or known_as; unknown "
        "for web data and local files). If unknown, metrics that need true labels are null.",
        one_of(TRUTHS),
    ),
    "data.bias": Field(
        "none",
        "Bias of the training set, e.g. long_tail_100, symmetric_40, long_tail_10+asymmetric_40 (rates in "
        "per cent).",
    ),
    "data.record": Field(
        "",
        "Folder with bias.json and bias.npz, e.g. another run's; its bias replaces `bias`. Empty: none.",
        local_file,
    ),
    "data.posterior": Field(
        "",
        "For pmd biases: .npy file of class probabilities, [training split, C].",
        local_file,
    ),
    "data.confidences": Field(
        "",
        "For the bias `confidences`: .npy file [training split, C]; each row's most likely class is the "
        "given label. An example is the confidences.npy of a proden run.",
        local_file,
    ),
    "data.human_labels": Field(
        "",
        "For human biases: .npz file of human labels; empty: those of the data set.",
        local_file,
    ),
    "data.open_set_from": Field(
        "cifar100",
        "For open_set biases: the data set that foreign images come from.",
        one_of(DATASETS),
    ),
    "data.open_set_raw_dir": Field(
        "",
        "For open_set biases: `raw_dir` of the data set `open_set_from`.",
        local_file,
    ),
    "data.calibration_per_class": Field(
        0,
        "Training images per class that are set apart before the bias, for the thresholds of selective "
        "classification: every method then also reports its errors at given coverages; 0: none.",
        between(0, INT32),
    ),
    "data.path": Field(
        "auto",
        "Input path: device (the set is kept on the devices), stream (read as needed) or auto (stream "
        "beyond 2 GiB).",
        one_of(PATHS),
    ),
    "data.resize_pixels": Field(
        0,
        "stream only: shorter side of the images after resizing, in pixels; 0: no resizing.",
        between(0, 2**13),
    ),
    "data.crop_pixels": Field(
        0,
        "stream only: side of the square crop after resizing, in pixels; 0: no crop.",
        between(0, 2**13),
    ),
    "data.resize_up_to_pixels": Field(
        0,
        "stream only: largest shorter side of training images after resizing, drawn uniformly from "
        "resize_pixels on (scale jitter); 0: always resize_pixels.",
        between(0, 2**13),
    ),
    "data.least_area_percent": Field(
        0.0,
        "stream only: smallest per cent of its image's area that a training crop shows, e.g. 8.0. Crops then "
        "have a random area and aspect ratio (3:4 to 4:3) and are resized to crop_pixels. 0.0: crops of "
        "crop_pixels, of the resized image.",
        within("[0, 100)"),
    ),
    "data.workers": Field(
        0,
        "stream only: number of processes that read and decode; 0: threads of the main process.",
        between(0, 2**10),
    ),
    "data.prefetch_batches": Field(
        4,
        "stream only: number of batches that each worker reads ahead.",
        between(1, 2**10),
    ),
    "augment.pad_pixels": Field(
        0,
        "Pixels added on each side of a training image before a random crop of the original size.",
        between(0, 2**13),
    ),
    "augment.pad_mode": Field(
        "reflect",
        "Content of the added border: reflect or constant (black).",
        one_of(PAD_MODES),
    ),
    "augment.flip": Field(
        False,
        "Whether training images are flipped left to right at random.",
    ),
    "augment.color_jitter": Field(
        0.0,
        "Strength of random changes of brightness, contrast and saturation of training images, in random "
        "order, each by a factor from 1 minus to 1 plus this; 0.0: none.",
        within("[0, 1]"),
    ),
    "augment.rand_ops": Field(
        0,
        "RandAugment operations per training image, after crop and flip, from FixMatch's pool with random "
        "magnitudes; 0: none.",
        between(0, 100),
    ),
    "augment.cutout_pixels": Field(
        0,
        "Side of a grey square at a random place of each training image, after all other changes; 0: none.",
        between(0, 2**13),
    ),
    "model.name": Field(
        "mlp",
        "Architecture of the classifier.",
        one_of(MODELS),
    ),
    "model.hidden": Field(
        (256, 256),
        "mlp and bag_of_embeddings only: units of each hidden layer.",
        _widths,
    ),
    "model.batch_norm": Field(
        True,
        "mlp and bag_of_embeddings only: whether it uses BatchNorm.",
    ),
    "model.width": Field(
        128,
        "bag_of_embeddings and transformer only: size of a token's embedding.",
        between(1, 2**16),
    ),
    "model.layers": Field(
        2,
        "transformer only: number of encoder layers.",
        between(1, 100),
    ),
    "model.heads": Field(
        4,
        "transformer only: attention heads per layer; model.width must be an even multiple.",
        between(1, 2**10),
    ),
    "model.batch_norm_over": Field(
        "all",
        "Scope of BatchNorm's statistics: all (the batch over all devices, so that N devices compute what "
        "one device would) or local (each device's own batch).",
        one_of(("all", "local")),
    ),
    "model.pretrained": Field(
        "",
        "ImageNet weights to start from: a .safetensors or .npz file with torchvision's names; empty: random.",
        local_file,
    ),
    "model.init": Field(
        "",
        "Finished run whose classifier, as it was tested, is the start: all parameters and running statistics "
        "of its newest checkpoint, of the same shapes. Its optimiser and weight net are not used. Empty: none.",
        local_file,
    ),
    "model.dtype": Field(
        "float32",
        "Dtype of the classifier's computation: float32 or bfloat16; parameters are float32 either way.",
        one_of(DTYPES),
    ),
    **optimizers.FIELDS,
    "checkpoint.every_epochs": Field(
        20,
        "Epochs between checkpoints; others are written at the end and when SIGTERM or SIGINT stops the run.",
        between(1, MANY),
    ),
    "checkpoint.every_minutes": Field(
        10.0,
        "Minutes after a checkpoint until the next one, written at the end of the running chunk, also inside "
        "an epoch; 0: never. This limits the work that a SIGKILL loses and does not affect the results.",
        between(0, MANY),
    ),
    "checkpoint.keep": Field(
        2,
        "Number of newest checkpoints to keep.",
        between(1, MANY),
    ),
    "watch.pictures_every_epochs": Field(
        20,
        "Epochs between plots for TensorBoard (weighting functions, weights, confusion matrix), which are "
        "also drawn at the end; 0: only at the end.",
        between(0, MANY),
    ),
    "audit.probabilities": Field(
        "auto",
        "Whether the run leaves the class probabilities of all training examples (probabilities.npy, float16), "
        "which the audit exports: auto (if they are at most 1 GiB), always or never.",
        one_of(("auto", "always", "never")),
    ),
    "micro_batches": Field(
        1,
        "low_memory only: parts that each batch is split into. BatchNorm uses the statistics of each part.",
        between(1, MANY),
    ),
}
"""The launcher's config fields, in display order."""
