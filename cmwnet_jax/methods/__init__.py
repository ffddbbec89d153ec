"""The registry of training methods. A config's `method` is the name of a `Spec`, which the launcher builds.

Each method is one file in this folder. To add your own from any file, make a `Spec` and call `register(spec)`
before the config is checked.
"""

from cmwnet_jax.errors import UsageError, need

need("launch", "ml_collections")

from cmwnet_jax.methods import (  # noqa: E402
    class_balanced,
    cmwnet,
    cmwnet_sl,
    dividemix,
    elr,
    erm,
    fixmatch,
    fixmatch_cmwnet,
    focal,
    forward,
    gce,
    l2rw,
    ldam,
    lrt,
    m_correction,
    mcw,
    mixup,
    mwnet,
    oltr,
    plc,
    proden,
    selectivenet,
    selectivenet_cmwnet,
)
from cmwnet_jax.methods.base import Spec  # noqa: E402

_OWN = (
    erm,
    focal,
    class_balanced,
    gce,
    forward,
    ldam,
    oltr,
    mixup,
    elr,
    m_correction,
    dividemix,
    lrt,
    plc,
    proden,
    l2rw,
    mcw,
    mwnet,
    cmwnet,
    cmwnet_sl,
    fixmatch,
    fixmatch_cmwnet,
    selectivenet,
    selectivenet_cmwnet,
)  # in the order in which tables show them

METHODS: dict[str, Spec] = {module.SPEC.name: module.SPEC for module in _OWN}
"""All registered methods: name in a config -> `Spec`."""

DEFAULT = "cmwnet"
"""The default method."""


def register(spec: Spec) -> Spec:
    """Registers a method, so that configs can name it.

    A method registered under the same name before is replaced: a config file may be loaded more than once.

    Args:
        spec: the method.

    Returns:
        `spec`.

    Raises:
        UsageError: its name is that of a method of this package.
    """
    if spec.name in {module.SPEC.name for module in _OWN}:
        raise UsageError(f"Spec.name is {spec.name!r}, a method of cmwnet_jax: choose another name")
    METHODS[spec.name] = spec
    return spec
