"""The check that a config's values make sense, before any data are read."""

from ml_collections import ConfigDict

from cmwnet_jax.data.augment import PAD_MODES
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import local_path
from cmwnet_jax.models import MODELS
from cmwnet_jax.soft_labels import SECOND_LOSSES
from cmwnet_jax.step_parts import NORMALIZATIONS
from cmwnet_jax.train.config import default_config
from cmwnet_jax.train.methods import METHODS

META_SETS = ("lowest_loss", "balanced", "held_out")
PATHS = ("auto", "device", "stream")
DTYPES = ("float32", "bfloat16")
SCHEDULES = ("steps", "warm_restarts")
LOSSES = ("cross_entropy", "focal", "gce", "ldam")

FILES = (
    "data.dir",
    "data.raw_dir",
    "data.record",
    "data.posterior",
    "data.confidences",
    "data.human_labels",
    "data.open_set_raw_dir",
    "model.pretrained",
    "weight_net.init",
    "loss.forward_posterior",
)

_LEAST = (
    ("num_epochs", 1),
    ("warmup_epochs", 0),
    ("batch_size", 1),
    ("meta_every_steps", 1),
    ("chunk_steps", 1),
    ("micro_batches", 1),
    ("meta_set.per_class_examples", 1),
    ("meta_set.batch_size", 1),
    ("weight_net.num_meta_classes", 1),
    ("weight_net.hidden", 1),
    ("checkpoint.every_epochs", 1),
    ("checkpoint.every_minutes", 0),
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
    ("optimizer.first_cycle_epochs", 1),
    ("optimizer.least_learning_rate", 0),
    ("optimizer.weight_decay", 0),
    ("optimizer.decay_factor", 0),
    ("weight_net.learning_rate", 0),
    ("weight_net.weight_decay", 0),
    ("mixup_alpha", 0),
    ("loss.focal_gamma", 0),
    ("loss.mcw_learning_rate", 0),
    ("elr.strength", 0),
)

_PERCENTS = ("loss.reweight_at_percent", "soft_labels.freeze_teacher_at_percent")

_RANGES = (
    ("soft_labels.momentum", "[0, 1)", lambda value: 0 <= value < 1),
    ("soft_labels.teacher_momentum", "[0, 1]", lambda value: 0 <= value <= 1),
    ("elr.momentum", "[0, 1)", lambda value: 0 <= value < 1),
    ("loss.gce_q", "(0, 1]", lambda value: 0 < value <= 1),
    ("loss.class_balanced_beta", "[0, 1)", lambda value: 0 <= value < 1),
    ("loss.ldam_margin", "(0, inf)", lambda value: 0 < value < float("inf")),
    ("loss.ldam_scale", "(0, inf)", lambda value: 0 < value < float("inf")),
)

_NAMES = (
    ("method", METHODS),
    ("data.name", DATASETS),
    ("data.path", PATHS),
    ("augment.pad_mode", PAD_MODES),
    ("meta_set.kind", META_SETS),
    ("model.name", MODELS),
    ("model.batch_norm_over", ("all", "local")),
    ("model.dtype", DTYPES),
    ("optimizer.schedule", SCHEDULES),
    ("weight_net.normalize", NORMALIZATIONS),
    ("weight_net.class_feature", ("size", "shuffled")),
    ("loss.name", LOSSES),
    ("soft_labels.start_from", ("prediction", "given")),
    ("soft_labels.teacher_statistics", ("running", "batch")),
    ("soft_labels.second_loss", SECOND_LOSSES),
    ("soft_labels.dtype", DTYPES),
)


def check_config(config: ConfigDict) -> None:
    """Checks every field that can be checked without the data.

    Raises:
        UsageError: the first field that is missing, unknown or wrong.
    """
    _check_fields(config, default_config())
    for field, known in _NAMES:
        if _get(config, field) not in known:
            raise unknown_name(field, _get(config, field), known)
    for field in FILES:
        if _get(config, field):
            local_path(field, _get(config, field))
    for field, least in _LEAST:
        value = _get(config, field)
        if not least <= value < (float("inf") if isinstance(value, float) else 2**63):
            raise UsageError(f"{field} is {value}, expected a number that is finite and at least {least}")
    if config.data.path == "device" and (config.data.resize_pixels or config.data.crop_pixels):
        raise UsageError(
            "data.path is 'device', where data.resize_pixels and data.crop_pixels do nothing: set it to "
            "'stream'"
        )
    least, first = config.optimizer.least_learning_rate, config.optimizer.learning_rate
    if config.optimizer.schedule == "warm_restarts" and not least <= first > 0:
        raise UsageError(
            f"optimizer.learning_rate is {first}, expected more than 0 and at least "
            f"optimizer.least_learning_rate, {least}, with warm_restarts"
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
    for field in _PERCENTS:
        if not 0 <= _get(config, field) <= 100:
            raise UsageError(f"{field} is {_get(config, field)}, expected a per cent of the steps, 0 to 100")
    for field, interval, holds in _RANGES:
        if not holds(_get(config, field)):
            raise UsageError(f"{field} is {_get(config, field)}, expected a number in {interval}")
    _check_method(config)


def _check_method(config: ConfigDict) -> None:
    """What one field says only with another."""
    if config.method == "mixup" and not config.mixup_alpha:
        raise UsageError("mixup_alpha is 0, expected a positive number with the method mixup")
    if config.weight_net.init and not METHODS[config.method].has_weight_net:
        raise UsageError(
            f"weight_net.init is {config.weight_net.init!r}, but {config.method} has no weight net: leave it "
            f"empty, or take the method mwnet, cmwnet or cmwnet_sl"
        )
    if config.weight_net.frozen and not config.weight_net.init:
        raise UsageError(
            "weight_net.frozen is True, but weight_net.init is empty, and a random weight net would never "
            "learn: name a learned one there"
        )
    if config.loss.name != "cross_entropy" and config.method not in ("erm", "mwnet", "cmwnet"):
        raise UsageError(
            f"loss.name is {config.loss.name!r}, but {config.method} has a loss of its own: leave it "
            f"cross_entropy, or take the method erm, mwnet or cmwnet"
        )
    if config.weight_net.class_feature != "size" and config.method != "cmwnet":
        raise UsageError(
            f"weight_net.class_feature is {config.weight_net.class_feature!r}, which {config.method} does not "
            f"read: leave it size, or take the method cmwnet"
        )
    if config.meta_set.kind == "held_out" and config.meta_set.pseudo_labels:
        raise UsageError(
            "meta_set.pseudo_labels is True, but held_out meta data have true labels: set it to False"
        )
    if METHODS[config.method].every_step and config.meta_every_steps != 1:
        raise UsageError(
            f"meta_every_steps is {config.meta_every_steps}, expected 1: {config.method} weighs each batch anew"
        )
    if config.low_memory and config.method not in ("mwnet", "cmwnet"):
        raise UsageError(
            f"low_memory is True, but {config.method} has no such step: set it to False, or take the method "
            f"mwnet or cmwnet"
        )
    if config.low_memory and config.weight_net.frozen:
        raise UsageError(
            "low_memory is True, but with weight_net.frozen there is no meta step, and plain training's memory "
            "is all that a run takes: set it to False"
        )
    if config.micro_batches != 1 and not config.low_memory:
        raise UsageError(
            f"micro_batches is {config.micro_batches}, which the default step does not read: set low_memory to "
            f"True, or leave it 1"
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
