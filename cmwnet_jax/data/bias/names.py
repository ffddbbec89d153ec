"""Biases by name, e.g. `long_tail_100`, `pmd1_35+uniform_30`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from cmwnet_jax.data.bias import similar
from cmwnet_jax.data.bias.human import human_labels as use_human_labels
from cmwnet_jax.data.bias.imbalance import long_tail, subset
from cmwnet_jax.data.bias.labels import BiasedLabels, Seed
from cmwnet_jax.data.bias.noise import (
    asymmetric_noise,
    flip_matrix,
    symmetric_noise,
    transition_noise,
    uniform_noise,
)
from cmwnet_jax.data.bias.open_set import ForeignSet, open_set
from cmwnet_jax.data.bias.partial import (
    binomial_candidates,
    most_confident,
    pair_candidates,
    partial_labels,
)
from cmwnet_jax.data.bias.pmd import pmd_noise, pmd_noise_plc
from cmwnet_jax.data.random import Purpose, generator
from cmwnet_jax.errors import UsageError, unknown_name


class _Inputs(NamedTuple):
    """What a bias may need besides labels, a rate and a seed; field names are `apply`'s arguments."""

    dataset: str
    class_names: Sequence[str] | None = None
    posterior: ArrayLike | None = None
    human_labels: Mapping[str, ArrayLike] | None = None
    foreign: ForeignSet | None = None
    confidences: ArrayLike | None = None


_Bias = Callable[[BiasedLabels, float, Seed, _Inputs], BiasedLabels]


class _Kind(NamedTuple):
    apply: _Bias
    needs: str = ""
    is_percent: bool = True


def _flips(
    kind: str, maps: Mapping[str, similar.Flips], labels: BiasedLabels, inputs: _Inputs
) -> similar.Flips:
    return similar.flips_of(kind, maps, inputs.dataset, labels.num_classes, inputs.class_names)


def _asymmetric(labels: BiasedLabels, percent: float, seed: Seed, inputs: _Inputs) -> BiasedLabels:
    flips = _flips("asymmetric", similar.ASYMMETRIC_FLIPS, labels, inputs)
    return asymmetric_noise(labels, percent / 100, flips, seed)


def _asymmetric_dividemix(labels: BiasedLabels, percent: float, seed: Seed, inputs: _Inputs) -> BiasedLabels:
    flips = _flips("asymmetric_dividemix", similar.DIVIDEMIX_FLIPS, labels, inputs)
    return asymmetric_noise(labels, percent / 100, flips, seed)


def _asymmetric_plc(labels: BiasedLabels, percent: float, seed: Seed, inputs: _Inputs) -> BiasedLabels:
    # Drawn example by example, as the code behind Table 4 does, not an exact count a class (Q24).
    flips = _flips("asymmetric_plc", similar.PLC_FLIPS, labels, inputs)
    return transition_noise(labels, flip_matrix(percent / 100, flips, labels.num_classes), seed)


def _pmd(noise: Callable[..., BiasedLabels], kind: int) -> _Kind:
    return _Kind(
        lambda b, percent, seed, inputs: noise(b, kind, percent / 100, inputs.posterior, seed), "posterior"
    )


def _partial(draw: Callable) -> _Kind:
    return _Kind(lambda b, percent, seed, _: partial_labels(b, percent / 100, draw, seed))


_KINDS: Mapping[str, _Kind] = {
    "long_tail": _Kind(lambda b, factor, seed, _: long_tail(b, factor, seed), is_percent=False),
    "subset": _Kind(lambda b, count, seed, _: subset(b, count, seed), is_percent=False),
    "symmetric": _Kind(lambda b, percent, seed, _: symmetric_noise(b, percent / 100, seed)),
    "uniform": _Kind(lambda b, percent, seed, _: uniform_noise(b, percent / 100, seed)),
    "asymmetric": _Kind(_asymmetric),
    "asymmetric_dividemix": _Kind(_asymmetric_dividemix),
    "asymmetric_plc": _Kind(_asymmetric_plc),
    **{f"pmd{kind}": _pmd(pmd_noise, kind) for kind in (1, 2, 3)},
    **{f"pmd{kind}_plc": _pmd(pmd_noise_plc, kind) for kind in (1, 2, 3)},
    "open_set": _Kind(
        lambda b, percent, seed, inputs: open_set(b, percent / 100, inputs.foreign, seed), "foreign"
    ),
    "partial": _partial(binomial_candidates),
    "partial_pair": _partial(pair_candidates),
}

_CONFIDENCES = _Kind(lambda b, amount, seed, inputs: most_confident(b, inputs.confidences), "confidences")

_HELP_OF_NEED = {
    "posterior": "the class probabilities of a classifier trained on clean labels",
    "human_labels": "a mapping from annotators to their labels",
    "foreign": "the ForeignSet that the images come from",
    "confidences": "class probabilities, e.g. what PRODEN ends with",
}


def apply(
    name: str,
    labels: BiasedLabels,
    dataset: str,
    seed: int,
    *,
    class_names: Sequence[str] | None = None,
    posterior: ArrayLike | None = None,
    human_labels: Mapping[str, ArrayLike] | None = None,
    foreign: ForeignSet | None = None,
    confidences: ArrayLike | None = None,
) -> BiasedLabels:
    """The bias that a name says.

    `KIND_NUMBER`, the number a rate in per cent (for `long_tail`, the imbalance factor, for
    `subset`, how many examples are kept), with KIND one of `long_tail`, `subset`, `symmetric` (own
    class may be drawn), `uniform` (it may not), `asymmetric` (the published map, or CIFAR-100's
    superclass rule), `asymmetric_dividemix` (cats and dogs both ways), `asymmetric_plc` (Table 4's),
    `pmd1`, `pmd2`, `pmd3` (Sec. 4.3), `pmd1_plc` to `pmd3_plc` (the code behind Table 3), `open_set`,
    `partial` and `partial_pair` (candidate sets, binomial or of the next class, the number the rate
    of false candidates); or `human_ANNOTATOR`; or `confidences`, the most likely classes of a table.
    Parts that are joined by `+` apply from left to right, each with its own stream of the seed, e.g.
    `long_tail_10+asymmetric_40`.
    Hybrids are feature-dependent noise first, then independent noise laid over it (Table 4):
    `pmd1_35+uniform_30`. `none` and the empty name are no bias.

    Args:
        name: the bias.
        labels: what to bias, usually `BiasedLabels.clean(...)`.
        dataset: the data set's name, which chooses the asymmetric map.
        seed: seed of the whole bias, not negative.
        class_names: C names in the order of the labels, by which the asymmetric map finds its classes; None is
            the order of the published set.
        posterior: [training split, C] float, rows by id; what `pmd` needs.
        human_labels: annotator -> [training split] int, rows by id; the entry `clean`, where there
            is one, is compared with the true labels.
        foreign: what `open_set` takes images from.
        confidences: [training split, C] float, rows by id; what `confidences` needs.

    Raises:
        UsageError: the name is not understood, a number in it is out of range, or what it needs is
            not given.
    """
    inputs = _Inputs(dataset, class_names, posterior, human_labels, foreign, confidences)
    for position, part in enumerate(_parts(name)):
        kind, amount = _parse(part)
        if labels.candidates is not None:
            raise UsageError(f"bias is {name!r}, where {part!r} follows partial labels: put these last")
        if kind.needs and getattr(inputs, kind.needs) is None:
            raise UsageError(f"bias is {part!r}, which needs {kind.needs}: pass {_HELP_OF_NEED[kind.needs]}")
        labels = kind.apply(labels, amount, generator(seed, Purpose.BIAS, position), inputs)
    return labels


def needs(name: str) -> frozenset[str]:
    """Which of `apply`'s optional arguments a name needs; checks the name without any data.

    Rates between 0 and 1 are refused: they are shares that were meant to be in per cent.

    Args:
        name: the bias.

    Returns:
        A subset of `posterior`, `human_labels`, `foreign` and `confidences`.

    Raises:
        UsageError: the name is not understood.

    Example:
        >>> needs("pmd1_35+uniform_30")
        frozenset({'posterior'})
    """
    return frozenset(kind.needs for kind, _ in map(_parse, _parts(name)) if kind.needs)


def _parts(name: str) -> list[str]:
    return [] if name in ("", "none") else name.split("+")


def _parse(part: str) -> tuple[_Kind, float]:
    if matched := re.fullmatch(r"human_(\w+)", part):
        return _human(matched[1]), 0.0
    if part == "confidences":
        return _CONFIDENCES, 0.0
    matched = re.fullmatch(r"(\w+)_(-?[0-9]+(?:\.[0-9]+)?)", part)
    kind = matched[1] if matched else part
    if kind not in _KINDS:
        raise unknown_name(
            f"bias is {part!r}, expected KIND_NUMBER, but KIND", kind, [*_KINDS, "human", "confidences"]
        )
    if not matched:
        raise UsageError(
            f"bias is {part!r}, expected a number at its end, e.g. {part}_40 (a rate in per cent, a factor, or "
            f"a count)"
        )
    amount = float(matched[2])
    if _KINDS[kind].is_percent and 0 < amount < 1:
        raise UsageError(
            f"bias is {part!r}, which is {amount:g} per cent, expected a rate in per cent, 0 or from 1 to 100: "
            f"write {kind}_{100 * amount:g} for a share of {amount:g}"
        )
    return _KINDS[kind], amount


def _human(annotator: str) -> _Kind:
    def chosen(labels: BiasedLabels, amount: float, seed: Seed, inputs: _Inputs) -> BiasedLabels:
        del amount, seed  # what people said has neither
        if annotator not in inputs.human_labels:
            raise unknown_name(f"the annotator in 'human_{annotator}'", annotator, inputs.human_labels)
        return use_human_labels(labels, inputs.human_labels[annotator], inputs.human_labels.get("clean"))

    return _Kind(chosen, "human_labels")
