"""Checks combinations of config fields. Each method checks those of its own fields."""

from ml_collections import ConfigDict

from cmwnet_jax.data.builders import BUILDERS
from cmwnet_jax.data.prepare import options_of
from cmwnet_jax.data.sources import DATASETS
from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import is_nothing, reads_options
from cmwnet_jax.train.optimizers import phase_epochs


def check_combined(config: ConfigDict, defaults: ConfigDict) -> None:
    """Checks combinations of fields that are each valid alone.

    Args:
        config: the run's config.
        defaults: the default config.

    Raises:
        UsageError: two fields contradict each other, or a setting would have no effect on the training.
    """
    _check_input(config)
    _check_builder(config, defaults)
    _check_start(config)
    _check_learning_rates(config)
    _check_phases(config)
    _check_micro_batches(config)
    _check_warmup(config)
    options = {option for spec in METHODS.values() for option in spec.options}
    readers = {
        option: [name for name, spec in METHODS.items() if option in spec.options] for option in sorted(options)
    }
    reads_options(config, readers, defaults)
    METHODS[config.method].check(config)


def _check_input(config: ConfigDict) -> None:
    fields = config.data
    if fields.path == "device" and (fields.resize_pixels or fields.crop_pixels):
        raise UsageError(
            "data.path is 'device', where data.resize_pixels and data.crop_pixels do nothing: set it to "
            "'stream'"
        )
    if config.data.also_test_raw_dir and config.data.also_test not in DATASETS:
        raise UsageError(
            f"data.also_test_raw_dir is {config.data.also_test_raw_dir!r}, but data.also_test is "
            f"{config.data.also_test!r}, expected the name of the data set that these files are: set it, e.g. "
            f"to imagenet_val or image_folder"
        )
    for name in ("resize_up_to_pixels", "least_area_percent"):
        if fields[name] and not fields.crop_pixels:
            raise UsageError(
                f"data.{name} is {fields[name]}, but data.crop_pixels is 0, expected the size that the network "
                f"should see, which images of random sizes are cropped to: set it"
            )
    up_to, least = fields.resize_up_to_pixels, fields.resize_pixels
    if up_to and not 0 < least < up_to:
        raise UsageError(
            f"data.resize_up_to_pixels is {up_to} and data.resize_pixels {least}, expected sides between which "
            f"the image's is drawn: set resize_pixels to less, and more than 0"
        )
    if up_to and fields.least_area_percent:
        raise UsageError(
            f"data.resize_up_to_pixels is {up_to} and data.least_area_percent {fields.least_area_percent}, "
            f"expected one of them at most, since a random area is of the image as it is stored: leave one 0"
        )
    if 0 < config.mixup_alpha < 1e-3:
        raise UsageError(
            f"mixup_alpha is {config.mixup_alpha}, which mixes next to nothing: set it to at least 0.001, or "
            f"to 0 for no mixup"
        )


def _check_builder(config: ConfigDict, defaults: ConfigDict) -> None:
    """Raises a UsageError for fields that another data set's builder reads."""
    readers = {option: name for name, builder in BUILDERS.items() for option in builder.OPTIONS}
    used = (config.data.name, config.data.also_test, config.data.open_set_from)
    own = {option for name in used if name for option in options_of(config.data, name)}
    for option, reader in readers.items():
        if option not in own and config.data[option] != defaults.data[option]:
            raise UsageError(
                f"data.{option} is {config.data[option]!r}, which {config.data.name} does not read: leave it "
                f"{defaults.data[option]!r}, or set data.name to {reader!r}"
            )


def _check_start(config: ConfigDict) -> None:
    if config.model.pretrained and config.model.init:
        raise UsageError(
            f"model.pretrained is {config.model.pretrained!r} and model.init {config.model.init!r}, expected "
            f"one of them at most, since a classifier starts from one: leave the other empty"
        )


def _check_learning_rates(config: ConfigDict) -> None:
    fields = config.optimizer
    least, first = fields.least_learning_rate, fields.learning_rate
    if fields.schedule == "warm_restarts" and not least <= first > 0:
        raise UsageError(
            f"optimizer.learning_rate is {first}, expected more than 0 and at least "
            f"optimizer.least_learning_rate, {least}, with warm_restarts"
        )
    if is_nothing(first):
        raise UsageError(
            f"optimizer.learning_rate is {first}, with which the classifier would never learn: set it to more "
            f"than 0"
        )
    if fields.clip_norm and is_nothing(fields.clip_norm):
        raise UsageError(
            f"optimizer.clip_norm is {fields.clip_norm}, with which the classifier would never learn: set it "
            f"to more, or to 0.0 for no clipping"
        )
    if (
        fields.schedule == "steps"
        and is_nothing(fields.decay_factor)
        and min(fields.decay_at_percent, default=100) < 100
    ):
        raise UsageError(
            f"optimizer.decay_factor is {fields.decay_factor}, after which the classifier would not learn: set "
            f"it to more than 0, or train for fewer epochs"
        )


def _check_phases(config: ConfigDict) -> None:
    fields, first = config.optimizer, config.warmup_epochs
    if fields.two_phases and not 0 < first < config.num_epochs:
        raise UsageError(
            f"optimizer.two_phases is True, but warmup_epochs is {first}, expected at least 1 and "
            f"less than num_epochs, {config.num_epochs}, so that there are two phases: set it to False"
        )
    if fields.two_phases and fields.schedule == "warm_restarts":
        raise UsageError(
            "optimizer.two_phases is True, but warm_restarts already has a constant learning rate in "
            "the warm-up and restarts after it: set it to False, or take another optimizer.schedule"
        )
    shortest = min(phase_epochs(config))
    if fields.linear_warmup_epochs >= shortest:
        raise UsageError(
            f"optimizer.linear_warmup_epochs is {fields.linear_warmup_epochs}, expected less than {shortest}, "
            f"the epochs that the learning rate's schedule spans: lower it"
        )


def _check_micro_batches(config: ConfigDict) -> None:
    if config.micro_batches != 1 and not config.low_memory:
        raise UsageError(
            f"micro_batches is {config.micro_batches}, which the default step does not read: set low_memory to "
            f"True, or leave it 1"
        )
    if config.micro_batches > config.batch_size:
        raise UsageError(
            f"micro_batches is {config.micro_batches}, expected at most batch_size, {config.batch_size}: lower "
            f"it"
        )


def _check_warmup(config: ConfigDict) -> None:
    if METHODS[config.method].follows_warmup(config) and config.warmup_epochs >= config.num_epochs:
        raise UsageError(
            f"warmup_epochs is {config.warmup_epochs}, expected less than num_epochs, {config.num_epochs}: "
            f"{config.method} would be plain training"
        )
