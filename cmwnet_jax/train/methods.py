"""The methods by name, and what the rest of the package must know of one before it is built."""

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Kind:
    """A method's traits.

    Attributes:
        learns_weights: whether it takes meta steps, and so needs meta data.
        has_weight_net: whether a weight net learns, which can be taken elsewhere.
        has_meta_classes: whether its weights depend on the size of the class.
        has_teacher: whether an averaged classifier makes pseudo-labels, and chooses the meta data.
        may_weigh_nothing: whether all weights of a batch may rightly be 0.
        every_step: whether each step must be a meta step.
        from_candidates: whether it learns from candidate sets (partial labels) instead of from given labels.
    """

    learns_weights: bool = False
    has_weight_net: bool = False
    has_meta_classes: bool = False
    has_teacher: bool = False
    may_weigh_nothing: bool = False
    every_step: bool = False
    from_candidates: bool = False


METHODS = {
    "erm": Kind(),
    "focal": Kind(),
    "class_balanced": Kind(),
    "gce": Kind(),
    "forward": Kind(),
    "ldam": Kind(),
    "mixup": Kind(),
    "elr": Kind(),
    "proden": Kind(from_candidates=True),
    "l2rw": Kind(learns_weights=True, may_weigh_nothing=True, every_step=True),
    "mcw": Kind(learns_weights=True, every_step=True),
    "mwnet": Kind(learns_weights=True, has_weight_net=True),
    "cmwnet": Kind(learns_weights=True, has_weight_net=True, has_meta_classes=True),
    "cmwnet_sl": Kind(learns_weights=True, has_weight_net=True, has_meta_classes=True, has_teacher=True),
}
"""Every method by its name in a config; `build_method.MAKERS` builds them."""


def kind_of(config: ConfigDict) -> Kind:
    """The traits of a run's method; a frozen weight net weighs, but nothing is learned (Algorithm 2).

    Args:
        config: the run's.
    """
    kind = METHODS[config.method]
    return dataclasses.replace(kind, learns_weights=kind.learns_weights and not config.weight_net.frozen)
