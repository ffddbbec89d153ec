"""Weight nets as files: an Orbax item that restores alone, with what is needed to use it elsewhere."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import ArrayLike

from cmwnet_jax import array_facts
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.types import PyTree
from cmwnet_jax.weight_net import WeightNet

ITEM = "weight_net"
"""Name of the weight net's folder in each of a run's checkpoints."""

_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class SavedWeightNet:
    """A learned weight net and where it comes from.

    Attributes:
        weight_params: parameters of `WeightNet`, numpy arrays.
        centers: [K] float64, the class sizes that its heads stand for, ascending.
        loss_range: the lowest and the highest loss that it learned from; beyond them it extrapolates.
        provenance: what it was learned on, as JSON: data set, bias, method, seed and the like.
    """

    weight_params: PyTree
    centers: np.ndarray
    loss_range: tuple[float, float]
    provenance: dict[str, Any]

    @property
    def num_meta_classes(self) -> int:
        """K."""
        return len(self.centers)

    @property
    def weight_net(self) -> WeightNet:
        """The module whose parameters these are: `weight_net.apply(weight_params, losses, meta_class)`."""
        kernel = self.weight_params["params"]["heads"]["kernel"]
        return WeightNet(self.num_meta_classes, hidden=kernel.shape[0], param_dtype=kernel.dtype)


def save_weight_net(
    path: str | os.PathLike,
    weight_params: PyTree,
    *,
    centers: ArrayLike,
    loss_range: tuple[float, float],
    provenance: dict[str, Any] | None = None,
) -> None:
    """Writes a weight net to a folder of its own, as a whole or not at all.

    Args:
        path: the folder; it must not exist.
        weight_params: parameters of a `WeightNet`.
        centers: [K] float, ascending: `MetaClasses.centers`.
        loss_range: the lowest and the highest loss that it learned from.
        provenance: anything that JSON can hold, for whoever finds the file.

    Raises:
        UsageError: the folder exists, or the arguments do not fit each other.

    Example:
        >>> import tempfile, jax, numpy as np
        >>> net = WeightNet(num_meta_classes=2, hidden=5)
        >>> weight_params = net.init(jax.random.key(0), np.ones(1), np.zeros(1, int))
        >>> path = tempfile.mkdtemp() + "/weight_net"
        >>> save_weight_net(path, weight_params, centers=[40, 900], loss_range=(0.0, 7.5))
        >>> load_weight_net(path).weight_net.hidden
        5
    """
    path = Path(path).expanduser().absolute()
    if path.exists():
        raise UsageError(f"path is {str(path)!r}, which exists, expected a new folder: choose another")
    saved = SavedWeightNet(
        array_facts.to_host(weight_params),
        np.asarray(centers, np.float64),
        (float(loss_range[0]), float(loss_range[1])),
        provenance or {},
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=save_args(saved))


def save_args(saved: SavedWeightNet) -> ocp.args.PyTreeSave:
    """What Orbax is to write, for those who save a weight net beside other items.

    Args:
        saved: the weight net, its arrays on the host.

    Raises:
        UsageError: its parts do not fit each other.
    """
    _check(saved)
    about = {
        "format": _FORMAT,
        "num_meta_classes": saved.num_meta_classes,
        "centers": saved.centers.tolist(),
        "loss_range": list(saved.loss_range),
        "provenance": saved.provenance,
        "arrays": array_facts.facts(saved.weight_params),
    }
    return ocp.args.PyTreeSave(saved.weight_params, custom_metadata=about)


def load_weight_net(path: str | os.PathLike) -> SavedWeightNet:
    """Reads a weight net, and nothing of the run or checkpoint around it.

    Args:
        path: a folder that `save_weight_net` wrote, one of a run's checkpoints, or the run's folder,
            which stands for its newest checkpoint.

    Raises:
        UsageError: there is no weight net, or it is damaged.
    """
    item = _find(Path(path).expanduser().absolute())
    try:
        handler = ocp.PyTreeCheckpointHandler()
        about = handler.metadata(item).custom_metadata
        with ocp.Checkpointer(handler) as checkpointer:
            weight_params = checkpointer.restore(item)
        wrong = array_facts.mismatches(about["arrays"], weight_params)
        wrong = wrong or ", ".join(array_facts.damaged(about["arrays"], weight_params))
    except Exception as error:  # Orbax's and TensorStore's errors have nothing else in common
        raise UsageError(
            f"path is {str(item)!r}, a weight net that cannot be read ({first_line(error)}): use another copy"
        ) from error
    if wrong:
        raise UsageError(f"path is {str(item)!r}, a weight net that is damaged ({wrong}): use another copy")
    return SavedWeightNet(
        weight_params, np.array(about["centers"]), tuple(about["loss_range"]), about["provenance"]
    )


def _find(path: Path) -> Path:
    """The weight net's own folder."""
    steps = [step for step in path.glob("checkpoints/*") if step.name.isdigit()]
    newest = max(steps, key=lambda step: int(step.name), default=path)
    for item in (path, path / ITEM, newest / ITEM):
        if (item / "_METADATA").is_file():
            return item
    raise UsageError(
        f"path is {str(path)!r}, which holds no weight net, expected a folder of save_weight_net, a checkpoint "
        f"or a run whose weight net has begun to learn: check the path, the run's method and its warm-up"
    )


def _check(saved: SavedWeightNet) -> None:
    try:
        heads = np.shape(saved.weight_params["params"]["heads"]["bias"])
    except (KeyError, TypeError, IndexError):
        raise UsageError(
            "weight_params are not a WeightNet's: pass what WeightNet(...).init gave and the steps have trained"
        ) from None
    if saved.centers.ndim != 1 or heads != saved.centers.shape or np.any(np.diff(saved.centers) < 0):
        raise UsageError(
            f"centers is {saved.centers.tolist()}, expected {heads[0]} in ascending order, one for each head "
            f"of the weight net: pass MetaClasses.centers"
        )
    low, high = saved.loss_range
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UsageError(f"loss_range is {saved.loss_range}, expected two finite numbers, the lower first")
