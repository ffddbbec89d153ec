"""The check that a config's values make sense, before any data are read."""

from ml_collections import ConfigDict

from cmwnet_jax.data import bias
from cmwnet_jax.data.augment import PAD_MODES
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.data.truth import PUBLISHED_CLASSES, TRUTHS
from cmwnet_jax.errors import UsageError, about, unknown_name
from cmwnet_jax.files import local_path
from cmwnet_jax.models import MODELS
from cmwnet_jax.soft_labels import SECOND_LOSSES
from cmwnet_jax.step_parts import NORMALIZATIONS
from cmwnet_jax.train.check_combined import check_combined
from cmwnet_jax.train.check_types import check_types, shown
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

_MANY = 10**6  # more than anybody means
_INT32 = 2**31 - 1  # what steps and rows are counted in on the devices
_LONGEST = 100  # entries of a tuple
_LARGE = 1e30  # finite in float32, too

BOUNDS = {
    "num_epochs": (1, _MANY),
    "warmup_epochs": (0, _MANY),
    "batch_size": (1, _INT32),
    "meta_every_steps": (1, _INT32),
    "chunk_steps": (1, _INT32),
    "micro_batches": (1, _MANY),
    "meta_set.per_class_examples": (1, _INT32),
    "meta_set.batch_size": (1, _INT32),
    "weight_net.num_meta_classes": (1, _MANY),
    "weight_net.hidden": (1, 2**16),
    "checkpoint.every_epochs": (1, _MANY),
    "checkpoint.every_minutes": (0, _MANY),
    "checkpoint.keep": (1, _MANY),
    "watch.pictures_every_epochs": (0, _MANY),
    "seed": (0, 2**32 - 1),  # JAX's keys have as many: a larger seed would give a smaller one's parameters
    "data.resize_pixels": (0, 2**13),
    "data.crop_pixels": (0, 2**13),
    "data.workers": (0, 2**10),
    "data.prefetch_batches": (1, 2**10),
    "augment.pad_pixels": (0, 2**13),
    "augment.rand_ops": (0, 100),
    "optimizer.learning_rate": (0, _LARGE),
    "optimizer.first_cycle_epochs": (1, _MANY),
    "optimizer.least_learning_rate": (0, _LARGE),
    "optimizer.weight_decay": (0, _LARGE),
    "optimizer.decay_factor": (0, _LARGE),
    "weight_net.learning_rate": (0, _LARGE),
    "weight_net.weight_decay": (0, _LARGE),
    "mixup_alpha": (0, _MANY),
    "loss.focal_gamma": (0, _MANY),
    "loss.mcw_learning_rate": (0, _LARGE),
    "elr.strength": (0, _LARGE),
}
"""The least and the most that a number may be; the fields that are not here are in `PERCENTS` or `RANGES`."""

PERCENTS = ("loss.reweight_at_percent", "soft_labels.freeze_teacher_at_percent")

RANGES = (
    ("optimizer.momentum", "[0, 1)", lambda value: 0 <= value < 1),
    ("soft_labels.momentum", "[0, 1)", lambda value: 0 <= value < 1),
    ("soft_labels.teacher_momentum", "[0, 1]", lambda value: 0 <= value <= 1),
    ("elr.momentum", "[0, 1)", lambda value: 0 <= value < 1),
    ("loss.gce_q", "(0, 1]", lambda value: 0 < value <= 1),
    ("loss.class_balanced_beta", "[0, 1)", lambda value: 0 <= value < 1),
    ("loss.ldam_margin", "(0, inf)", lambda value: 0 < value <= _LARGE),
    ("loss.ldam_scale", "(0, inf)", lambda value: 0 < value <= _LARGE),
)

_NAMES = (
    ("method", METHODS),
    ("data.name", DATASETS),
    ("data.path", PATHS),
    ("data.truth", TRUTHS),
    ("data.known_as", ("", *PUBLISHED_CLASSES)),
    ("data.open_set_from", DATASETS),
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
        UsageError: the first field that is missing, unknown or wrong, in one sentence.
    """
    check_types(config, default_config())
    for field, known in _NAMES:
        if _get(config, field) not in known:
            raise unknown_name(field, _get(config, field), known)
    for field in FILES:
        if _get(config, field):
            local_path(field, _get(config, field))
    for field, (least, most) in BOUNDS.items():
        value = _get(config, field)
        if not least <= value <= most:
            raise UsageError(
                f"{field} is {shown(value)}, expected a number that is finite and at least {least}, and at "
                f"most {most}"
            )
    for field in PERCENTS:
        if not 0 <= _get(config, field) <= 100:
            raise UsageError(
                f"{field} is {shown(_get(config, field))}, expected a per cent of the steps, 0 to 100"
            )
    for field, interval, holds in RANGES:
        if not holds(_get(config, field)):
            raise UsageError(f"{field} is {shown(_get(config, field))}, expected a number in {interval}")
    _check_tuples(config)
    with about("data.bias"):
        bias.needs(config.data.bias)
    check_combined(config)


def _check_tuples(config: ConfigDict) -> None:
    percents, widths = config.optimizer.decay_at_percent, config.model.hidden
    if not all(type(percent) in (int, float) and 0 <= percent <= 100 for percent in percents):
        raise UsageError(
            f"optimizer.decay_at_percent is {shown(percents)}, expected per cents of the steps, 0 to 100"
        )
    if not all(type(width) is int and 1 <= width <= 2**16 for width in widths):
        raise UsageError(
            f"model.hidden is {shown(widths)}, expected whole numbers of units, each at least 1 and at most "
            f"{2**16}"
        )
    for field, values in (("optimizer.decay_at_percent", percents), ("model.hidden", widths)):
        if len(values) > _LONGEST:
            raise UsageError(f"{field} has {len(values)} entries, expected at most {_LONGEST}")


def _get(config: ConfigDict, field: str):
    for name in field.split("."):
        config = config[name]
    return config
