"""The default config, a comment above every field, and the check that its values make sense."""

import json

from ml_collections import ConfigDict, config_dict

from cmwnet_jax.data.augment import PAD_MODES
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.models import MODELS
from cmwnet_jax.step_parts import NORMALIZATIONS

METHODS = ("erm", "mwnet", "cmwnet")
META_SETS = ("lowest_loss", "balanced", "held_out")
PATHS = ("auto", "device", "stream")


def default_config() -> ConfigDict:
    """CMW-Net on the bundled digits, unbiased; experiments start from it and change fields."""
    config = ConfigDict()
    # erm (plain training), mwnet (one weighting function) or cmwnet (one a meta-class).
    config.method = "cmwnet"
    # Seed of the bias, the initial parameters and the order of the batches.
    config.seed = 0
    # Passes over the training set.
    config.num_epochs = 100
    # Of these, the first so many are plain cross-entropy, for every method alike (Q9).
    config.warmup_epochs = 10
    # Training examples a step, over all devices.
    config.batch_size = 100
    # The weight net learns on every so many-th step, and is applied on all (Algorithm 1: 1).
    config.meta_every_steps = 1

    config.data = ConfigDict()
    # A data set's name.
    config.data.name = "digits"
    # Where prepared data sets are kept; empty: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    config.data.dir = ""
    # Files that were fetched by hand: a folder or archive, for the sets that are made from such.
    config.data.raw_dir = ""
    # For local files: the published set that they are (e.g. cifar10), whose map of similar classes applies.
    config.data.known_as = ""
    # The bias, e.g. long_tail_100, symmetric_40, long_tail_10+asymmetric_40 (rates in per cent).
    config.data.bias = "none"
    # A folder with bias.json and bias.npz, e.g. another run's: its bias is used instead of `bias`.
    config.data.record = ""
    # For pmd biases: an .npy of class probabilities, [training split, C].
    config.data.posterior = ""
    # For human biases: an .npz of human labels; empty: the data set's own.
    config.data.human_labels = ""
    # For open_set biases: the data set that images are taken from.
    config.data.open_set_from = "cifar100"
    # Its `raw_dir`.
    config.data.open_set_raw_dir = ""
    # device (the set lives on the devices), stream (read as needed), auto (stream beyond 2 GiB).
    config.data.path = "auto"
    # Streaming only: the shorter side after resizing; 0: images keep their size.
    config.data.resize_pixels = 0
    # Streaming only: the square that is cut out then; 0: nothing is.
    config.data.crop_pixels = 0
    # Streaming only: processes that read and decode; 0: threads of this one.
    config.data.workers = 0
    # Streaming only: batches that each of them reads ahead.
    config.data.prefetch_batches = 4

    config.augment = ConfigDict()
    # Border added on each side of a training image before a random crop of the original size.
    config.augment.pad_pixels = 0
    # What the border shows: reflect or constant (black).
    config.augment.pad_mode = "reflect"
    # Whether training images are mirrored left to right at random.
    config.augment.flip = False
    # RandAugment's ops a training image, after crop and flip, from FixMatch's pool, magnitudes drawn; 0: none.
    config.augment.rand_ops = 0

    config.meta_set = ConfigDict()
    # lowest_loss (each epoch, per class, the examples of lowest loss: no clean data needed, Sec. 4.2),
    # balanced (each epoch, per class, random training examples, B.1), held_out (clean, set apart).
    config.meta_set.kind = "lowest_loss"
    # Examples of each class, at most.
    config.meta_set.per_class_examples = 10
    # Whether the meta loss compares with the classifier's own classes instead of the given labels (Q20).
    config.meta_set.pseudo_labels = False
    # Whether each meta batch is mixed up with itself, Beta(1, 1) (Sec. 4.2).
    config.meta_set.mixup = False
    # Meta examples a step, over all devices; a smaller meta set is used whole.
    config.meta_set.batch_size = 100

    config.model = ConfigDict()
    # The classifier's architecture.
    config.model.name = "mlp"
    # Units of its hidden layers.
    config.model.hidden = (256, 256)
    # Whether it normalises over the batch.
    config.model.batch_norm = True
    # What that batch is: all devices' (N devices then compute what one does) or each device's own (local).
    config.model.batch_norm_over = "all"

    config.optimizer = ConfigDict()
    # SGD's learning rate at the start; the virtual step (Eq. 7) uses the current one.
    config.optimizer.learning_rate = 0.1
    # The learning rate is multiplied by `decay_factor` at each of these shares of the steps.
    config.optimizer.decay_at_percent = (60.0, 85.0)
    # The factor.
    config.optimizer.decay_factor = 0.1
    # SGD's momentum.
    config.optimizer.momentum = 0.9
    # Whether it is Nesterov's.
    config.optimizer.nesterov = False
    # Coupled L2 on every parameter (Q32).
    config.optimizer.weight_decay = 5e-4

    config.weight_net = ConfigDict()
    # K, the number of meta-classes; mwnet has 1 whatever this says.
    config.weight_net.num_meta_classes = 3
    # Units of its hidden layer.
    config.weight_net.hidden = 100
    # Adam's learning rate for it.
    config.weight_net.learning_rate = 1e-3
    # Coupled L2 on its parameters.
    config.weight_net.weight_decay = 1e-4
    # What weights are divided by: sum (their own), mean (the batch size) or none (Q1).
    config.weight_net.normalize = "sum"

    config.checkpoint = ConfigDict()
    # A checkpoint every so many epochs, at the end, and when SIGTERM or SIGINT asks to stop.
    config.checkpoint.every_epochs = 20
    # How many of the newest are kept.
    config.checkpoint.keep = 2

    config.watch = ConfigDict()
    # TensorBoard gets pictures (weighting functions, weights, confusion matrix) every so many epochs, and
    # at the end; 0: only then.
    config.watch.pictures_every_epochs = 20
    return config.lock()


_LEAST = (
    ("num_epochs", 1),
    ("warmup_epochs", 0),
    ("batch_size", 1),
    ("meta_every_steps", 1),
    ("meta_set.per_class_examples", 1),
    ("meta_set.batch_size", 1),
    ("weight_net.num_meta_classes", 1),
    ("weight_net.hidden", 1),
    ("checkpoint.every_epochs", 1),
    ("checkpoint.keep", 1),
    ("watch.pictures_every_epochs", 0),
    ("seed", 0),
    ("data.resize_pixels", 0),
    ("data.crop_pixels", 0),
    ("data.workers", 0),
    ("data.prefetch_batches", 1),
    ("augment.pad_pixels", 0),
    ("augment.rand_ops", 0),
    ("optimizer.learning_rate", 0),
    ("optimizer.momentum", 0),
    ("optimizer.weight_decay", 0),
    ("optimizer.decay_factor", 0),
    ("weight_net.learning_rate", 0),
    ("weight_net.weight_decay", 0),
)


def as_json(config: ConfigDict) -> str:
    """The config as config.json has it, which is what a restarted run is compared with.

    Args:
        config: any.
    """
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2) + "\n"


def parse_arg(arg: str, positional: tuple[str, ...], **defaults: str | int) -> config_dict.ConfigDict:
    """A config's argument string, e.g. `long_tail_10,erm,seed=3`.

    Args:
        arg: what follows the colon: values by position, then name=value.
        positional: the names that the positions stand for.
        **defaults: every name with its default, which gives its type.

    Raises:
        UsageError: too many values, an unknown name, or a value of the wrong type.
    """
    values = dict(defaults)
    tokens = [token.strip() for token in arg.split(",")] if arg else []
    for position, token in enumerate(tokens):
        name, has_name, text = token.partition("=")
        if not has_name:
            if position >= len(positional):
                raise UsageError(
                    f"the config's argument {arg!r} has {token!r} at place {position + 1}, expected at most "
                    f"{','.join(positional)}, then name=value"
                )
            name, text = positional[position], token
        if name not in defaults:
            raise unknown_name("a name in the config's argument", name, defaults)
        if text:
            values[name] = _typed(name, text, type(defaults[name]))
    return ConfigDict(values)


def _typed(name: str, text: str, kind: type) -> str | int | float:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r} in the config's argument, expected {kind.__name__}") from None


def check_config(config: ConfigDict) -> None:
    """Checks every field that can be checked without the data.

    Raises:
        UsageError: the first field that is missing, unknown or wrong.
    """
    _check_fields(config, default_config())
    for field, known in (
        ("method", METHODS),
        ("data.name", DATASETS),
        ("data.path", PATHS),
        ("augment.pad_mode", PAD_MODES),
        ("meta_set.kind", META_SETS),
        ("model.name", MODELS),
        ("model.batch_norm_over", ("all", "local")),
        ("weight_net.normalize", NORMALIZATIONS),
    ):
        if _get(config, field) not in known:
            raise unknown_name(field, _get(config, field), known)
    for field, least in _LEAST:
        value = _get(config, field)
        if not least <= value < (float("inf") if isinstance(value, float) else 2**63):
            raise UsageError(f"{field} is {value}, expected a number that is finite and at least {least}")
    if config.data.path == "device" and (config.data.resize_pixels or config.data.crop_pixels):
        raise UsageError(
            "data.path is 'device', where data.resize_pixels and data.crop_pixels do nothing: set it to "
            "'stream'"
        )
    if config.optimizer.momentum >= 1:
        raise UsageError(f"optimizer.momentum is {config.optimizer.momentum}, expected less than 1")
    percents = config.optimizer.decay_at_percent
    if not all(type(percent) in (int, float) and 0 <= percent <= 100 for percent in percents):
        raise UsageError(f"optimizer.decay_at_percent is {percents}, expected per cents of the steps, 0 to 100")
    if not all(type(width) is int and width >= 1 for width in config.model.hidden):
        raise UsageError(
            f"model.hidden is {config.model.hidden}, expected whole numbers of units, each at least 1"
        )
    if config.method != "erm" and config.warmup_epochs >= config.num_epochs:
        raise UsageError(
            f"warmup_epochs is {config.warmup_epochs}, expected less than num_epochs, {config.num_epochs}: "
            f"{config.method} would be plain training"
        )


def _check_fields(config: ConfigDict, default: ConfigDict, section: str = "") -> None:
    """Every default field is there, of the default's type, and no other."""
    for name in sorted({*config, *default}):
        field = f"{section}{name}"
        if name not in default:
            raise unknown_name("a field of the config", field, [f"{section}{known}" for known in default])
        if name not in config:
            raise UsageError(f"the config has no field {field!r}: start from default_config(), which has all")
        value, expected = config[name], default[name]
        if isinstance(expected, ConfigDict):
            _check_fields(value, expected, f"{field}.")
        elif isinstance(expected, tuple):
            if not isinstance(value, tuple | list):
                raise UsageError(f"{field} is {value!r}, expected a list of numbers, e.g. {expected}")
        elif not isinstance(value, (int, float) if isinstance(expected, float) else type(expected)):
            raise UsageError(f"{field} is {value!r}, expected {type(expected).__name__}")


def _get(config: ConfigDict, field: str):
    for name in field.split("."):
        config = config[name]
    return config
