"""Methods by name. Each is a file: a config's `method` names its `Spec`, and the launcher builds that.

A method of your own, in any file: make a `Spec` and call `register(spec)` before the config is checked.
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
"""Every method's `Spec`, by its name in a config."""

DEFAULT = "cmwnet"
"""The method of a config that says nothing."""


def register(spec: Spec) -> Spec:
    """Makes a method known to configs.

    Args:
        spec: of a new name.

    Returns:
        The same.

    Raises:
        UsageError: there is a method of this name.
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
