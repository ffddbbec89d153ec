"""Shared parts of the configs for the paper's tables on CIFAR."""

from ml_collections import ConfigDict

from cmwnet_jax.errors import unknown_name
from cmwnet_jax.train.config import default_config

RECIPES = ("paper", "published")


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


def step_epochs(config: ConfigDict, *epochs: int) -> tuple[float, ...]:
    """Converts epochs to per cents of the run, for `optimizer.decay_at_percent`.

    Args:
        config: a config with its final `num_epochs`.
        *epochs: the epochs after which the learning rate drops.
    """
    return tuple(100 * epoch / config.num_epochs for epoch in epochs)
