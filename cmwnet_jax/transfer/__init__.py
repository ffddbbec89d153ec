"""Weight nets to hand around: a run's, a checkpoint's, a folder or one small file (Algorithm 2)."""

import os

from cmwnet_jax.files import local_path, refused
from cmwnet_jax.transfer.folder import ITEM as ITEM
from cmwnet_jax.transfer.folder import read_folder
from cmwnet_jax.transfer.folder import save_args as save_args
from cmwnet_jax.transfer.folder import save_weight_net as save_weight_net
from cmwnet_jax.transfer.portable import read_file
from cmwnet_jax.transfer.saved import SavedWeightNet as SavedWeightNet


def load_weight_net(path: str | os.PathLike) -> SavedWeightNet:
    """Reads a weight net, and nothing of the run or checkpoint around it.

    Args:
        path: a folder that `save_weight_net` wrote, one of a run's checkpoints, the run's folder, which
            stands for its newest checkpoint, or a file that `python -m cmwnet_jax.transfer export` wrote.

    Raises:
        UsageError: there is no weight net, it is damaged, or of another format.
    """
    given = local_path("path", path)
    with refused("path", given, "cannot be read"):
        is_file = not given.is_dir() and os.path.lexists(given)
    return read_file(given) if is_file else read_folder(given)
