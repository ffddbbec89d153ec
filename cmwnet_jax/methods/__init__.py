"""The registry of training methods. A config's `method` is the name of a `Spec`, which the launcher builds.

Each method is one file in this folder. To add your own from any file, make a `Spec` and call `register(spec)`
before the config is checked.
"""

from cmwnet_jax.errors import UsageError
from cmwnet_jax.methods import (
    class_balanced,
    cmwnet,
    cmwnet_sl,
    elr,
    erm,
    focal,
    forward,
    gce,
    l2rw,
    ldam,
    mcw,
    mixup,
    mwnet,
    proden,
)
from cmwnet_jax.methods.base import Spec

METHODS: dict[str, Spec] = {}
"""All registered methods: name in a config -> `Spec`."""

DEFAULT = "cmwnet"
"""The default method."""


def register(spec: Spec) -> Spec:
    """Registers a method, so that configs can name it.

    Args:
        spec: the method; its name must be new.

    Returns:
        `spec`.

    Raises:
        UsageError: a method of this name is already registered.
    """
    if spec.name in METHODS:
        raise UsageError(f"Spec.name is {spec.name!r}, which is a method's name already: choose another")
    METHODS[spec.name] = spec
    return spec


for _module in (
    erm,
    focal,
    class_balanced,
    gce,
    forward,
    ldam,
    mixup,
    elr,
    proden,
    l2rw,
    mcw,
    mwnet,
    cmwnet,
    cmwnet_sl,
):
    register(_module.SPEC)
