"""The config fields that the launcher reads, whatever the method; those of a method are in its file."""

from typing import Any

from cmwnet_jax.data.augment import PAD_MODES
from cmwnet_jax.data.sources import DATASETS
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
)
from cmwnet_jax.models import MODELS
from cmwnet_jax.train import optimizers

PATHS = ("auto", "device", "stream")
DTYPES = ("float32", "bfloat16")


def _widths(name: str, values: Any) -> None:
    """A check: whole numbers of units."""
    if not all(type(width) is int and 1 <= width <= 2**16 for width in values):
        raise UsageError(
            f"{name} is {shown(values)}, expected whole numbers of units, each at least 1 and at most {2**16}"
        )
    check_entries(name, values)


FIELDS = {
    "method": Field(
        DEFAULT,
        "What is trained, by name: one of cmwnet_jax.methods.",
        one_of(METHODS),
    ),
    "seed": Field(
        0,
        "Seed of the bias, the initial parameters and the order of the batches.",
        between(0, 2**32 - 1),
    ),
    "num_epochs": Field(
        100,
        "Passes over the training set.",
        between(1, MANY),
    ),
    "warmup_epochs": Field(
        10,
        "Of these, the first so many are plain cross-entropy, for every method alike (Q9).",
        between(0, MANY),
    ),
    "batch_size": Field(
        100,
        "Training examples a step, over all devices.",
        between(1, INT32),
    ),
    "chunk_steps": Field(
        600,
        "Steps that run at a stretch; the last stretch of an epoch may be shorter. Between stretches "
        "numbers are checked, checkpoints written and SIGTERM obeyed: they should be shorter than the"
        " grace before a SIGKILL. On the device path a stretch is one compiled program, and a shorter"
        " one another.",
        between(1, INT32),
    ),
    "data.name": Field(
        "digits",
        "A data set's name.",
        one_of(DATASETS),
    ),
    "data.dir": Field(
        "",
        "Where prepared data sets are kept; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets.",
        local_file,
    ),
    "data.raw_dir": Field(
        "",
        "Files that were fetched by hand: a folder or archive, for the sets that are made from such.",
        local_file,
    ),
    "data.known_as": Field(
        "",
        "For local files: the published set that they are (e.g. cifar10), whose map of similar "
        "classes applies; by the names of the classes, or their numbers.",
        one_of(("", *PUBLISHED_CLASSES)),
    ),
    "data.truth": Field(
        "auto",
        "Whether the set's own labels are right, so that it can be said which are wrong after the "
        "bias: known, unknown, or auto (known for published benchmarks, by name or known_as; not for "
        "sets from the web and files of your own). Where it is unknown, metrics that need it are "
        "null.",
        one_of(TRUTHS),
    ),
    "data.bias": Field(
        "none",
        "The bias, e.g. long_tail_100, symmetric_40, long_tail_10+asymmetric_40 (rates in per cent).",
    ),
    "data.record": Field(
        "",
        "A folder with bias.json and bias.npz, e.g. another run's: its bias is used instead of `bias`.",
        local_file,
    ),
    "data.posterior": Field(
        "",
        "For pmd biases: an .npy of class probabilities, [training split, C].",
        local_file,
    ),
    "data.confidences": Field(
        "",
        "For the bias `confidences`: an .npy [training split, C], whose rows' most likely classes are"
        " given, e.g. the confidences.npy of a proden run.",
        local_file,
    ),
    "data.human_labels": Field(
        "",
        "For human biases: an .npz of human labels; empty: the data set's own.",
        local_file,
    ),
    "data.open_set_from": Field(
        "cifar100",
        "For open_set biases: the data set that images are taken from.",
        one_of(DATASETS),
    ),
    "data.open_set_raw_dir": Field(
        "",
        "Its `raw_dir`.",
        local_file,
    ),
    "data.path": Field(
        "auto",
        "device (the set lives on the devices), stream (read as needed), auto (stream beyond 2 GiB).",
        one_of(PATHS),
    ),
    "data.resize_pixels": Field(
        0,
        "Streaming only: the shorter side after resizing; 0: images keep their size.",
        between(0, 2**13),
    ),
    "data.crop_pixels": Field(
        0,
        "Streaming only: the square that is cut out then; 0: nothing is.",
        between(0, 2**13),
    ),
    "data.workers": Field(
        0,
        "Streaming only: processes that read and decode; 0: threads of this one.",
        between(0, 2**10),
    ),
    "data.prefetch_batches": Field(
        4,
        "Streaming only: batches that each of them reads ahead.",
        between(1, 2**10),
    ),
    "augment.pad_pixels": Field(
        0,
        "Border added on each side of a training image before a random crop of the original size.",
        between(0, 2**13),
    ),
    "augment.pad_mode": Field(
        "reflect",
        "What the border shows: reflect or constant (black).",
        one_of(PAD_MODES),
    ),
    "augment.flip": Field(
        False,
        "Whether training images are mirrored left to right at random.",
    ),
    "augment.rand_ops": Field(
        0,
        "RandAugment's ops a training image, after crop and flip, from FixMatch's pool, magnitudes "
        "drawn; 0: none.",
        between(0, 100),
    ),
    "model.name": Field(
        "mlp",
        "The classifier's architecture.",
        one_of(MODELS),
    ),
    "model.hidden": Field(
        (256, 256),
        "mlp only: units of its hidden layers.",
        _widths,
    ),
    "model.batch_norm": Field(
        True,
        "mlp only: whether it normalises over the batch.",
    ),
    "model.batch_norm_over": Field(
        "all",
        "What that batch is: all devices' (N devices then compute what one does) or each device's own (local).",
        one_of(("all", "local")),
    ),
    "model.pretrained": Field(
        "",
        "ImageNet's weights to start from: a .safetensors or .npz with torchvision's names; empty: "
        "random ones.",
        local_file,
    ),
    "model.init": Field(
        "",
        "A finished run whose whole classifier, of the same shapes, to start from: parameters and running "
        "statistics of its newest checkpoint; empty: none. Its optimiser and weight net are left there.",
        local_file,
    ),
    "model.dtype": Field(
        "float32",
        "What it computes in: float32 or bfloat16; parameters are float32 either way.",
        one_of(DTYPES),
    ),
    **optimizers.FIELDS,
    "checkpoint.every_epochs": Field(
        20,
        "A checkpoint every so many epochs, at the end, and when SIGTERM or SIGINT asks to stop.",
        between(1, MANY),
    ),
    "checkpoint.every_minutes": Field(
        10.0,
        "And after the first chunk of steps that ends so many minutes after the last checkpoint, also"
        " inside an epoch: what a SIGKILL costs, at most; 0: never. When it is written changes "
        "nothing of what is computed.",
        between(0, MANY),
    ),
    "checkpoint.keep": Field(
        2,
        "How many of the newest are kept.",
        between(1, MANY),
    ),
    "watch.pictures_every_epochs": Field(
        20,
        "TensorBoard gets pictures (weighting functions, weights, confusion matrix) every so many "
        "epochs, and at the end; 0: only then.",
        between(0, MANY),
    ),
    "micro_batches": Field(
        1,
        "low_memory only: into how many parts each batch is cut. BatchNorm then takes each part's statistics.",
        between(1, MANY),
    ),
}
"""In the order in which they are shown."""
