"""Shared parts of the configs for the paper's tables on CIFAR and on images from the web."""

import math

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config

RECIPES = ("paper", "published")
_TRIAL_EPOCHS = 4


def cifar_config(dataset: str, method: str, seed: int, recipe: str, *, pad_mode: str = "reflect") -> ConfigDict:
    """The default config with CIFAR, its usual augmentation, and plots only at the end.

    Args:
        dataset: cifar10 or cifar100.
        method: the name of a method.
        seed: the run's seed.
        recipe: `paper` (the paper's text) or `published` (the authors' code).
        pad_mode: content of the 4 pixels added around an image before the random crop.

    Raises:
        UsageError: the data set or the recipe is unknown.
    """
    if dataset not in ("cifar10", "cifar100"):
        raise unknown_name("DATASET", dataset, ("cifar10", "cifar100"))
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    config = default_config()
    config.method = method
    config.seed = seed
    config.data.name = dataset
    config.augment.pad_pixels = 4
    config.augment.pad_mode = pad_mode
    config.augment.flip = True
    config.watch.pictures_every_epochs = 0
    return config


def web_config(dataset: str, args: ConfigDict) -> ConfigDict:
    """The default config with a set of web images, generated meta data, and plots only at the end.

    Args:
        dataset: name of the set.
        args: `method`, `seed`, `raw_dir` and `recipe` from the config's argument.

    Raises:
        UsageError: the recipe is unknown.
    """
    if args.recipe not in RECIPES:
        raise unknown_name("recipe", args.recipe, RECIPES)
    config = default_config()
    config.method = args.method
    config.seed = args.seed
    config.data.name = dataset
    config.data.raw_dir = args.raw_dir
    config.augment.flip = True
    config.meta_set.rank_by = "now"  # as the paper and its code do
    config.watch.pictures_every_epochs = 0
    if args.recipe == "published":
        config.weight_net.normalize = "mean"
        config.soft_labels.start_from = "given"
        config.soft_labels.teacher_statistics = "batch"
    return config


def as_for_animal10n(config: ConfigDict, recipe: str) -> None:
    """Sets the classifier, its optimiser and the schedule as for ANIMAL-10N (C.1).

    Args:
        config: a config, changed in place.
        recipe: `paper` or `published`, which has no momentum.
    """
    config.model.name = "vgg19_bn"
    config.num_epochs = 100
    config.warmup_epochs = 20
    config.batch_size = 128
    config.optimizer.decay_at_percent = step_epochs(config, 50, 75)
    config.optimizer.decay_factor = 0.2
    config.optimizer.momentum = 0.0 if recipe == "published" else 0.9
    config.optimizer.weight_decay = 1e-3


def as_trial(config: ConfigDict, images: int) -> None:
    """Shortens a run to four epochs of few images, to see in minutes that everything works.

    Args:
        config: a config that is complete otherwise, changed in place.
        images: number of training images, taken at random; 0 leaves the config as it is.
    """
    if not images:
        return
    config.data.bias = f"subset_{images}"
    share = _TRIAL_EPOCHS / config.num_epochs
    config.num_epochs, config.warmup_epochs = _TRIAL_EPOCHS, math.ceil(share * config.warmup_epochs)
    config.optimizer.linear_warmup_epochs *= share


def step_epochs(config: ConfigDict, *epochs: int) -> tuple[float, ...]:
    """Converts epochs to per cents of the run, for `optimizer.decay_at_percent`.

    Args:
        config: a config with its final `num_epochs`.
        *epochs: the epochs after which the learning rate drops.
    """
    return tuple(100 * epoch / config.num_epochs for epoch in epochs)


def is_on(option: str, value: str) -> bool:
    """Whether an option by name is `on`.

    Args:
        option: its name.
        value: `on` or `off`.

    Raises:
        UsageError: it is something else.
    """
    if value not in ("on", "off"):
        raise unknown_name(option, value, ("on", "off"))
    return value == "on"
