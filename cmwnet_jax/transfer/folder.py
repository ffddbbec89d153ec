"""Weight nets in folders: an Orbax item that can be restored separately."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import ArrayLike

from cmwnet_jax.core.types import PyTree
from cmwnet_jax.errors import UsageError, first_line, naming_field
from cmwnet_jax.files import folder_to_write, local_path, refused
from cmwnet_jax.transfer import array_facts, portable
from cmwnet_jax.transfer.orbax_folder import (
    broken_seal,
    check_has_arrays,
    is_sealed,
    plainly_named,
    seal,
)
from cmwnet_jax.transfer.saved import SavedWeightNet, at_least_float32, check_format

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
    """Writes a weight net to a new folder or file, whole or not at all.

    Args:
        path: the folder, or one small file if it ends in .safetensors; it must not exist.
        weight_params: parameters of a `WeightNet`; half precision becomes float32.
        centers: [K] float, ascending: `MetaClasses.centers`.
        loss_range: the lowest and the highest loss that it was trained on.
        provenance: further information as JSON values, for later readers.

    Raises:
        UsageError: the path exists or cannot be written, or the arguments do not match each other.

    Example:
        >>> import tempfile, jax, numpy as np
        >>> from cmwnet_jax import WeightNet, load_weight_net
        >>> net = WeightNet(num_meta_classes=2, hidden=5)
        >>> weight_params = net.init(jax.random.key(0), np.ones(1), np.zeros(1, int))
        >>> path = tempfile.mkdtemp() + "/weight_net.safetensors"
        >>> save_weight_net(path, weight_params, centers=[40, 900], loss_range=(0.0, 7.5))
        >>> load_weight_net(path).weight_net.hidden
        5
    """
    path = local_path("path", path)
    try:
        numbers, (low, high) = np.asarray(centers, np.float64), map(float, loss_range)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"centers is {centers!r} and loss_range {loss_range!r}, expected K numbers and two of them "
            f"({first_line(error)})"
        ) from error
    weight_params = jax.tree.map(at_least_float32, array_facts.to_host(weight_params))
    saved = SavedWeightNet(weight_params, numbers, (low, high), provenance or {})
    if path.suffix == portable.SUFFIX:
        portable.write_file(path, saved)
    else:
        _write_new(folder_to_write("path", path).absolute(), save_args(saved))


def _write_new(path: Path, args: ocp.args.PyTreeSave) -> None:
    """Writes the weight net's item as this folder, or raises a UsageError and leaves nothing."""
    if path.exists():
        raise UsageError(f"path is {str(path)!r}, which exists, expected a new folder: choose another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cmwnet_jax_") as beside:
            _write(Path(beside), args)
            os.rename(Path(beside) / ITEM, path)
    except UsageError:
        raise
    except Exception as error:  # Orbax and TensorStore share no other base class of errors
        raise UsageError(
            f"path is {str(path)!r}, which cannot be written ({first_line(error)}): choose another"
        ) from error


def _write(folder: Path, args: ocp.args.PyTreeSave) -> None:
    """Writes the weight net's item into this folder, and reads it back."""
    with plainly_named(folder) as plain:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(plain / ITEM, args=args)
        check_has_arrays(plain / ITEM)
    seal(folder / ITEM)
    _read(folder / ITEM)


def save_args(saved: SavedWeightNet) -> ocp.args.PyTreeSave:
    """Orbax arguments for saving a weight net beside other items.

    Args:
        saved: the weight net, its arrays on the host.

    Raises:
        UsageError: its parts do not match each other.
    """
    saved.check()
    header = {**saved.about(), "arrays": array_facts.facts(saved.weight_params)}
    return ocp.args.PyTreeSave(saved.weight_params, custom_metadata=header)


def read_folder(path: str | os.PathLike) -> SavedWeightNet:
    """Reads a weight net from a folder, but nothing else of the run or checkpoint.

    Args:
        path: a folder written by `save_weight_net`, a checkpoint of a run, or a run's folder (its newest
            checkpoint is read).

    Raises:
        UsageError: there is no weight net, it is damaged, or its format is unknown.
    """
    given = local_path("path", path).absolute()
    with refused("path", given, "cannot be read"):
        item = _find(given)
    in_run = item.parent.parent.name == "checkpoints" and _is_checkpoint(item.parent)
    number = {"steps_done": int(item.parent.name)} if in_run else {}
    wrong = broken_seal(item, **number) if is_sealed(item) else ""
    if wrong:
        raise UsageError(f"path is {str(item)!r}, a weight net that is damaged ({wrong}): use another copy")
    return _read(item)


def _read(item: Path) -> SavedWeightNet:
    """Reads the folder of a weight net's item."""
    try:
        with plainly_named(item) as plain:
            handler = ocp.PyTreeCheckpointHandler()
            header = handler.metadata(plain).custom_metadata
            if not isinstance(header, dict) or "format" not in header:
                raise _none(item)
            check_format(item, header)
            with ocp.Checkpointer(handler) as checkpointer:
                weight_params = checkpointer.restore(plain)
        wrong = array_facts.mismatches(header["arrays"], weight_params)
        wrong = wrong or ", ".join(array_facts.damaged(header["arrays"], weight_params))
    except UsageError:
        raise
    except Exception as error:  # Orbax and TensorStore share no other base class of errors
        raise UsageError(
            f"path is {str(item)!r}, a weight net that cannot be read ({first_line(error)}): use another copy"
        ) from error
    if wrong:
        raise UsageError(f"path is {str(item)!r}, a weight net that is damaged ({wrong}): use another copy")
    with naming_field(f"path is {str(item)!r}"):
        return SavedWeightNet.of(weight_params, header)


def _find(path: Path) -> Path:
    """Finds the folder of the weight net's item."""
    steps = [step for step in path.glob("checkpoints/*") if _is_checkpoint(step)]
    newest = max(steps, key=lambda step: int(step.name), default=path)
    for item in (path, path / ITEM, newest / ITEM):
        if (item / "_METADATA").is_file():
            return item
    raise _none(path)


def _is_checkpoint(folder: Path) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", folder.name) is not None and folder.is_dir()


def _none(path: Path) -> UsageError:
    problem = "which holds no weight net" if path.exists() else "which does not exist"
    return UsageError(
        f"path is {str(path)!r}, {problem}, expected a folder of save_weight_net, a checkpoint "
        f"or a run whose weight net has begun to learn: check the path, the run's method and its warm-up"
    )
