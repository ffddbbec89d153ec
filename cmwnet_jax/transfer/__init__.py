"""Saved weight nets, for use elsewhere: from a run, a checkpoint, a folder or a small file (Algorithm 2)."""

import os

from cmwnet_jax.files import local_path, refused
from cmwnet_jax.transfer import zoo
from cmwnet_jax.transfer.folder import ITEM as ITEM
from cmwnet_jax.transfer.folder import read_folder
from cmwnet_jax.transfer.folder import save_args as save_args
from cmwnet_jax.transfer.folder import save_weight_net as save_weight_net
from cmwnet_jax.transfer.portable import read_file
from cmwnet_jax.transfer.saved import SavedWeightNet as SavedWeightNet


def load_weight_net(path: str | os.PathLike) -> SavedWeightNet:
    """Reads a weight net, but nothing else of the run or checkpoint.

    Args:
        path: a folder written by `save_weight_net`, a checkpoint of a run, a run's folder (its newest
            checkpoint is read), or a file written by `python -m cmwnet_jax.transfer export`; or `zoo:NAME`, one
            of the weight nets that come with the package (NAME alone, if there is no such path).

    Returns:
        A `SavedWeightNet`, whose arrays are NumPy's.

    Raises:
        UsageError: there is no weight net, it is damaged, or its format is unknown.

    Example:
        >>> from cmwnet_jax import load_weight_net
        >>> load_weight_net("zoo:fashion_mnist_asymmetric_60").centers.tolist()
        [2400.0, 6000.0, 9600.0]
    """
    given = zoo.file_of(path) or local_path("path", path)
    with refused("path", given, "cannot be read"):
        is_file = not given.is_dir() and os.path.lexists(given)
    if not is_file:
        zoo.check_name(given)
    return read_file(given) if is_file else read_folder(given)
