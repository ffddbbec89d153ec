"""Biases by name, e.g. `long_tail_100`, `pmd1_35+uniform_30`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from cmwnet_jax.data.bias import similar
from cmwnet_jax.data.bias.few_labels import balanced_subset, few_labels
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
    """Inputs that a bias may need besides labels, rate and seed; the fields are `apply`'s arguments."""

    dataset: str
    class_names: Sequence[str] | None = None
    posterior: ArrayLike | None = None
    human_labels: Mapping[str, ArrayLike] | None = None
    foreign: ForeignSet | None = None
    confidences: ArrayLike | None = None


_Bias = Callable[[BiasedLabels, float, Seed, _Inputs], BiasedLabels]


class _NamedBias(NamedTuple):
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
    # Drawn for each example, as in the code behind Table 4, not an exact count per class (Q24).
    flips = _flips("asymmetric_plc", similar.PLC_FLIPS, labels, inputs)
    return transition_noise(labels, flip_matrix(percent / 100, flips, labels.num_classes), seed)


def _pmd(noise: Callable[..., BiasedLabels], kind: int) -> _NamedBias:
    return _NamedBias(
        lambda b, percent, seed, inputs: noise(b, kind, percent / 100, inputs.posterior, seed), "posterior"
    )


def _partial(draw: Callable) -> _NamedBias:
    return _NamedBias(lambda b, percent, seed, _: partial_labels(b, percent / 100, draw, seed))


_BIASES: Mapping[str, _NamedBias] = {
    "long_tail": _NamedBias(lambda b, factor, seed, _: long_tail(b, factor, seed), is_percent=False),
    "subset": _NamedBias(lambda b, count, seed, _: subset(b, count, seed), is_percent=False),
    "balanced_subset": _NamedBias(lambda b, count, seed, _: balanced_subset(b, count, seed), is_percent=False),
    "labels": _NamedBias(lambda b, count, seed, _: few_labels(b, count, seed), is_percent=False),
    "symmetric": _NamedBias(lambda b, percent, seed, _: symmetric_noise(b, percent / 100, seed)),
    "uniform": _NamedBias(lambda b, percent, seed, _: uniform_noise(b, percent / 100, seed)),
    "asymmetric": _NamedBias(_asymmetric),
    "asymmetric_dividemix": _NamedBias(_asymmetric_dividemix),
    "asymmetric_plc": _NamedBias(_asymmetric_plc),
    **{f"pmd{kind}": _pmd(pmd_noise, kind) for kind in (1, 2, 3)},
    **{f"pmd{kind}_plc": _pmd(pmd_noise_plc, kind) for kind in (1, 2, 3)},
    "open_set": _NamedBias(
        lambda b, percent, seed, inputs: open_set(b, percent / 100, inputs.foreign, seed), "foreign"
    ),
    "partial": _partial(binomial_candidates),
    "partial_pair": _partial(pair_candidates),
}

_CONFIDENCES = _NamedBias(lambda b, amount, seed, inputs: most_confident(b, inputs.confidences), "confidences")

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
    """Applies the bias with the given name.

    The name is `KIND_NUMBER`, where KIND is one of

    - `long_tail`: NUMBER is the imbalance factor;
    - `subset`, `balanced_subset`: NUMBER is how many examples are kept, at random or as many of each class;
    - `labels`: NUMBER is how many examples keep their labels, as many of each class; the others keep their
      images alone. With the same seed, `balanced_subset` keeps the same examples;
    - `symmetric` (may draw the example's own class), `uniform` (may not);
    - `asymmetric` (the published map, or CIFAR-100's superclass rule), `asymmetric_dividemix` (cats and dogs
      both ways), `asymmetric_plc` (Table 4's map);
    - `pmd1`, `pmd2`, `pmd3` (Sec. 4.3), `pmd1_plc` to `pmd3_plc` (the code behind Table 3);
    - `open_set`;
    - `partial`, `partial_pair`: candidate sets, binomial or with the next class; NUMBER is the rate of false
      candidates.

    Except for `long_tail`, the subsets and `labels`, NUMBER is a rate in per cent. Further names are
    `human_ANNOTATOR`, and `confidences` for the most likely classes of a table. `none` and the empty name stand
    for no bias.

    Parts joined by `+` are applied from left to right, each with a separate stream of the seed, e.g.
    `long_tail_10+asymmetric_40`. The hybrids of Table 4 are feature-dependent noise followed by independent
    noise: `pmd1_35+uniform_30`.

    Args:
        name: the bias.
        labels: the labels to bias, usually `BiasedLabels.clean(...)`.
        dataset: the data set's name, which selects the asymmetric map.
        seed: seed of the whole bias, not negative.
        class_names: C names in label order, by which the asymmetric map finds its classes; None for the order
            of the published set.
        posterior: [training split, C] float, rows by id; needed by `pmd`.
        human_labels: annotator -> [training split] int, rows by id; an entry `clean` is compared with the
            true labels.
        foreign: the data set that `open_set` takes images from.
        confidences: [training split, C] float, rows by id; needed by `confidences`.

    Raises:
        UsageError: the name is unknown, a number in it is out of range, or a needed input is missing.
    """
    inputs = _Inputs(dataset, class_names, posterior, human_labels, foreign, confidences)
    for position, part in enumerate(_parts(name)):
        kind, amount = _parse(part)
        if labels.candidates is not None:
            raise UsageError(f"bias is {name!r}, where {part!r} follows partial labels: put these last")
        if not labels.is_labelled.all():
            raise UsageError(f"bias is {name!r}, where {part!r} follows labels_N: put that last")
        if kind.needs and getattr(inputs, kind.needs) is None:
            raise UsageError(f"bias is {part!r}, which needs {kind.needs}: pass {_HELP_OF_NEED[kind.needs]}")
        labels = kind.apply(labels, amount, generator(seed, Purpose.BIAS, position), inputs)
    return labels


def needs(name: str) -> frozenset[str]:
    """The optional arguments of `apply` that a name needs; checks the name without any data.

    Rates between 0 and 1 are refused, because they are probably shares instead of per cent.

    Args:
        name: the bias.

    Returns:
        A subset of `posterior`, `human_labels`, `foreign` and `confidences`.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> needs("pmd1_35+uniform_30")
        frozenset({'posterior'})
    """
    return frozenset(kind.needs for kind, _ in map(_parse, _parts(name)) if kind.needs)


def _parts(name: str) -> list[str]:
    return [] if name in ("", "none") else name.split("+")


def _parse(part: str) -> tuple[_NamedBias, float]:
    if matched := re.fullmatch(r"human_(\w+)", part):
        return _human(matched[1]), 0.0
    if part == "confidences":
        return _CONFIDENCES, 0.0
    matched = re.fullmatch(r"(\w+)_(-?[0-9]+(?:\.[0-9]+)?)", part)
    kind = matched[1] if matched else part
    if kind not in _BIASES:
        raise unknown_name(
            f"bias is {part!r}, expected KIND_NUMBER, but KIND", kind, [*_BIASES, "human", "confidences"]
        )
    if not matched:
        raise UsageError(
            f"bias is {part!r}, expected a number at its end, e.g. {part}_40 (a rate in per cent, a factor, or "
            f"a count)"
        )
    amount = float(matched[2])
    if _BIASES[kind].is_percent and 0 < amount < 1:
        raise UsageError(
            f"bias is {part!r}, which is {amount:g} per cent, expected a rate in per cent, 0 or from 1 to 100: "
            f"write {kind}_{100 * amount:g} for a share of {amount:g}"
        )
    if _BIASES[kind].is_percent and not 0 <= amount <= 100:
        raise UsageError(
            f"bias is {part!r}, which is {amount:g} per cent, expected 0 to 100: choose such a rate"
        )
    return _BIASES[kind], amount


def _human(annotator: str) -> _NamedBias:
    def chosen(labels: BiasedLabels, amount: float, seed: Seed, inputs: _Inputs) -> BiasedLabels:
        del amount, seed  # human labels have neither
        if annotator not in inputs.human_labels:
            raise unknown_name(f"the annotator in 'human_{annotator}'", annotator, inputs.human_labels)
        return use_human_labels(labels, inputs.human_labels[annotator], inputs.human_labels.get("clean"))

    return _NamedBias(chosen, "human_labels")
