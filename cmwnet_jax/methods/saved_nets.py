"""Weight nets that a run starts from, and the one that it saves."""

import warnings
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.core.meta_classes import MetaClasses
from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, naming_field
from cmwnet_jax.methods.base import Parts
from cmwnet_jax.transfer import SavedWeightNet, load_weight_net
from cmwnet_jax.transfer.array_facts import to_host


def learned_elsewhere(config: ConfigDict, num_meta_classes: int) -> SavedWeightNet | None:
    """Loads the weight net to start from; None for a random one.

    Args:
        config: the run's config.
        num_meta_classes: K, which the weight net must have.

    Raises:
        UsageError: it cannot be read, or has another K or number of hidden units.
    """
    fields = config.weight_net
    if not fields.init:
        return None
    with naming_field("weight_net.init"):
        saved = load_weight_net(fields.init)
    wanted = {"num_meta_classes": num_meta_classes, "hidden": fields.hidden}
    for name, value in wanted.items():
        if getattr(saved, name) != value:
            raise UsageError(
                f"weight_net.init is {fields.init!r}, whose {name} is {getattr(saved, name)}, expected "
                f"{value}, as {config.method} has here: set weight_net.{name}, or take another method "
                f"or weight net"
            )
    return saved


def warn_of_heads_without_class(learned: SavedWeightNet, is_used: np.ndarray) -> None:
    """Warns if meta-classes that are used had no class where the weight net was learned.

    Args:
        learned: the weight net.
        is_used: [K] bool, whether a meta-class of this run is, or may be, used.
    """
    unlearned = np.flatnonzero(is_used & ~learned.has_class)
    if len(unlearned):
        warnings.warn(
            f"the frozen weight net's heads for meta-classes {', '.join(map(str, unlearned))} had no class "
            f"where it was learned: weights of classes that use them were not learned",
            stacklevel=2,
        )


def as_saved(
    parts: Parts,
    about: Mapping[str, str],
    before: SavedWeightNet | None,
    is_used: np.ndarray,
    weight_params: PyTree,
    meta_classes: MetaClasses,
    loss_range: tuple[float, float],
    epochs_done: int,
) -> SavedWeightNet:
    """The run's weight net as a checkpoint stores it; it knows what the net that it started from had learned.

    Args:
        parts: the pieces of the run.
        about: further facts of its origin, by name.
        before: the weight net that it started from; None if that was random.
        is_used: as in `warn_of_heads_without_class`.
        weight_params: its parameters now.
        meta_classes: the run's, now.
        loss_range: the lowest and the highest loss of the run's weighed steps.
        epochs_done: the run's epochs so far.
    """
    config, data = parts.config, parts.data
    low, high = loss_range
    has_class = is_used
    if before is not None:
        low, high = min(low, before.loss_range[0]), max(high, before.loss_range[1])
        has_class = before.has_class | (is_used & (not config.weight_net.frozen))
    provenance = {
        "dataset": config.data.known_as or config.data.name,
        "bias": data.record.name,
        "num_examples": parts.num_examples,
        "class_counts": data.biased.class_counts.tolist(),
        "meta_class_of_class": meta_classes.of_class.tolist(),
        "has_class": has_class.tolist(),
        "method": config.method,
        "class_feature": config.weight_net.class_feature,
        "loss": config.loss.name,
        "model": config.model.name,
        **about,
        "seed": config.seed,
        "init": config.weight_net.init,
        "epochs_done": epochs_done,
        "versions": {"jax": jax.__version__},
    }
    return SavedWeightNet(to_host(weight_params), meta_classes.centers, (low, high), provenance)
