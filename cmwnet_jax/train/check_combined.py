"""The check of what one field of a config says only with another: what would not be read, or change nothing."""

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.methods import METHODS, kind_of


def check_combined(config: ConfigDict) -> None:
    """Checks fields together, each of which is right by itself.

    Raises:
        UsageError: two of them contradict each other, or what they ask for would be left out of the training.
    """
    _check_input(config)
    _check_learning_rates(config)
    _check_method(config)
    _check_weight_net(config)
    _check_steps(config)
    _check_does_something(config)


def _check_input(config: ConfigDict) -> None:
    if config.data.path == "device" and (config.data.resize_pixels or config.data.crop_pixels):
        raise UsageError(
            "data.path is 'device', where data.resize_pixels and data.crop_pixels do nothing: set it to "
            "'stream'"
        )
    if config.meta_set.kind == "held_out" and config.meta_set.pseudo_labels:
        raise UsageError(
            "meta_set.pseudo_labels is True, but held_out meta data have true labels: set it to False"
        )


def _check_learning_rates(config: ConfigDict) -> None:
    fields = config.optimizer
    least, first = fields.least_learning_rate, fields.learning_rate
    if fields.schedule == "warm_restarts" and not least <= first > 0:
        raise UsageError(
            f"optimizer.learning_rate is {first}, expected more than 0 and at least "
            f"optimizer.least_learning_rate, {least}, with warm_restarts"
        )
    if _is_nothing(first):
        raise UsageError(
            f"optimizer.learning_rate is {first}, with which the classifier would never learn: set it to more "
            f"than 0"
        )
    if (
        fields.schedule == "steps"
        and _is_nothing(fields.decay_factor)
        and min(fields.decay_at_percent, default=100) < 100
    ):
        raise UsageError(
            f"optimizer.decay_factor is {fields.decay_factor}, after which the classifier would not learn: set "
            f"it to more than 0, or train for fewer epochs"
        )


def _check_method(config: ConfigDict) -> None:
    if config.method == "mixup" and not config.mixup_alpha:
        raise UsageError("mixup_alpha is 0, expected a positive number with the method mixup")
    if 0 < config.mixup_alpha < 1e-3:
        raise UsageError(
            f"mixup_alpha is {config.mixup_alpha}, which mixes next to nothing: set it to at least 0.001, or "
            f"to 0 for cmwnet_sl without mixup"
        )
    if config.loss.name != "cross_entropy" and config.method not in ("erm", "mwnet", "cmwnet"):
        raise UsageError(
            f"loss.name is {config.loss.name!r}, but {config.method} has a loss of its own: leave it "
            f"cross_entropy, or take the method erm, mwnet or cmwnet"
        )
    if config.loss.reweight_at_percent < 100 and config.method != "ldam":
        raise UsageError(
            f"loss.reweight_at_percent is {config.loss.reweight_at_percent}, which {config.method} does not "
            f"read: leave it 100, or take the method ldam"
        )
    if config.low_memory and config.method not in ("mwnet", "cmwnet"):
        raise UsageError(
            f"low_memory is True, but {config.method} has no such step: set it to False, or take the method "
            f"mwnet or cmwnet"
        )


def _check_weight_net(config: ConfigDict) -> None:
    fields = config.weight_net
    if fields.init and not METHODS[config.method].has_weight_net:
        raise UsageError(
            f"weight_net.init is {fields.init!r}, but {config.method} has no weight net: leave it "
            f"empty, or take the method mwnet, cmwnet or cmwnet_sl"
        )
    if fields.frozen and not fields.init and fields.learning_rate:
        raise UsageError(
            "weight_net.frozen is True, but weight_net.init is empty, and a random weight net would never "
            "learn: name a learned one there (or set weight_net.learning_rate to 0, too, for a random one as a "
            "control)"
        )
    if METHODS[config.method].has_weight_net and not fields.frozen and _is_nothing(fields.learning_rate):
        raise UsageError(
            f"weight_net.learning_rate is {fields.learning_rate}, with which the weight net would never learn: "
            f"set it to more than 0, or weight_net.frozen to True"
        )
    if fields.class_feature != "size" and config.method != "cmwnet":
        raise UsageError(
            f"weight_net.class_feature is {fields.class_feature!r}, which {config.method} does not "
            f"read: leave it size, or take the method cmwnet"
        )
    if config.low_memory and fields.frozen:
        raise UsageError(
            "low_memory is True, but with weight_net.frozen there is no meta step, and plain training's memory "
            "is all that a run takes: set it to False"
        )


def _check_steps(config: ConfigDict) -> None:
    if METHODS[config.method].every_step and config.meta_every_steps != 1:
        raise UsageError(
            f"meta_every_steps is {config.meta_every_steps}, expected 1: {config.method} weighs each batch anew"
        )
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
    is_plain = config.method == "erm" and config.loss.name == "cross_entropy"
    if not is_plain and config.warmup_epochs >= config.num_epochs:
        raise UsageError(
            f"warmup_epochs is {config.warmup_epochs}, expected less than num_epochs, {config.num_epochs}: "
            f"{config.method} would be plain training"
        )


def _check_does_something(config: ConfigDict) -> None:
    """Settings with which a method would be plain training under another name."""
    loss = config.method if config.method in ("focal", "class_balanced") else config.loss.name
    by_class = loss == "class_balanced" or config.loss.reweight_at_percent < 100
    fields = {
        "loss.focal_gamma": (loss == "focal", config.loss.focal_gamma),
        "loss.class_balanced_beta": (by_class, config.loss.class_balanced_beta),
        "loss.mcw_learning_rate": (config.method == "mcw", config.loss.mcw_learning_rate),
        "elr.strength": (config.method == "elr", config.elr.strength),
    }
    for field, (is_read, value) in fields.items():
        if is_read and _is_nothing(value):
            raise UsageError(
                f"{field} is {value}, with which {config.method} would be plain training: set it to more than 0"
            )
    if METHODS[config.method].has_teacher and not np.float32(config.soft_labels.teacher_momentum) < 1:
        raise UsageError(
            f"soft_labels.teacher_momentum is {config.soft_labels.teacher_momentum}, with which the teacher "
            f"would never learn: set it to less than 1"
        )


def check_length(config: ConfigDict, epoch_steps: int) -> None:
    """Checks that what the config asks for at certain steps comes within the run.

    Args:
        config: the run's.
        epoch_steps: steps of each epoch.

    Raises:
        UsageError: it does not, or the steps are too many to count.
    """
    total = config.num_epochs * epoch_steps
    if total >= 2**31:
        raise UsageError(
            f"num_epochs is {config.num_epochs}, which comes to {total} steps, expected fewer than {2**31}: "
            f"lower it"
        )
    start, every = config.warmup_epochs * epoch_steps, config.meta_every_steps
    if kind_of(config).learns_weights and -(-start // every) * every >= total:
        raise UsageError(
            f"meta_every_steps is {every}, but the steps from {start}, after the warm-up, to {total} have no "
            f"multiple of it, so that no weights would be learned: lower it, or train for more epochs"
        )
    percent = config.loss.reweight_at_percent
    if config.method == "ldam" and percent < 100 and round(total * percent / 100) >= total:
        raise UsageError(
            f"loss.reweight_at_percent is {percent}, which is after the last of {total} steps: lower it, or "
            f"set it to 100 for no weights at all"
        )
    percent = config.soft_labels.freeze_teacher_at_percent
    if METHODS[config.method].has_teacher and round(total * percent / 100) == 0:
        raise UsageError(
            f"soft_labels.freeze_teacher_at_percent is {percent}, with which the teacher would never learn: "
            f"raise it"
        )


def _is_nothing(value: float) -> bool:
    """Whether it is 0 as the devices have it, in float32."""
    return not np.float32(value) > 0
