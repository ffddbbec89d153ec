"""Weight nets as folders: an Orbax item that restores alone."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import ArrayLike

from cmwnet_jax import array_facts, errors
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.transfer.saved import SavedWeightNet, check_format
from cmwnet_jax.types import PyTree

ITEM = "weight_net"
"""Name of the weight net's folder in each of a run's checkpoints."""


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
        >>> from cmwnet_jax import WeightNet, load_weight_net
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
    saved.check()
    return ocp.args.PyTreeSave(saved.weight_params, custom_metadata=saved.sealed())


def read_folder(path: str | os.PathLike) -> SavedWeightNet:
    """Reads a weight net from a folder, and nothing of the run or checkpoint around it.

    Args:
        path: a folder that `save_weight_net` wrote, one of a run's checkpoints, or the run's folder,
            which stands for its newest checkpoint.

    Raises:
        UsageError: there is no weight net, it is damaged, or of another format.
    """
    item = _find(Path(path).expanduser().absolute())
    try:
        handler = ocp.PyTreeCheckpointHandler()
        about = handler.metadata(item).custom_metadata
        check_format(item, about)
        with ocp.Checkpointer(handler) as checkpointer:
            weight_params = checkpointer.restore(item)
    except UsageError:
        raise
    except Exception as error:  # Orbax's and TensorStore's errors have nothing else in common
        raise UsageError(
            f"path is {str(item)!r}, a weight net that cannot be read ({first_line(error)}): use another copy"
        ) from error
    with errors.about(f"path is {str(item)!r}"):
        return SavedWeightNet.of(weight_params, about)


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
