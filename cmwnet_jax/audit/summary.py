"""The summary of an audit: how many labels are wrong, of which classes, and how sure that is."""

from collections.abc import Mapping

import numpy as np

from cmwnet_jax.audit.estimate import (
    LEAST_KAPPA,
    Agreement,
    agreement,
    contradicted,
    teachers_agreement,
    unlikely_on_average,
)
from cmwnet_jax.audit.examples import Examples, Table

_PAIRS = 1000  # pairs of classes listed, at most


def summarize(examples: Examples, ranked: Table, score: str, weights: str) -> dict:
    """The contents of summary.json.

    Args:
        examples: the examples.
        ranked: the same from `rank_examples`.
        score: name of the score.
        weights: what sample_weight.csv holds, in words.

    Returns:
        Numbers, strings, lists and dictionaries. `classes` has a line per given class, `pairs` one per given
        and suggested class, most frequent first, with estimated numbers of wrong labels. `is_sure` is False if
        the classifier has learned too little for these numbers, by its `test_agreement`, the test labels are of
        a single class (`test_classes`), or it contradicts no label in the end, but found some unlikely on
        average.
    """
    wrong, count = ranked["wrong_probability"], len(examples)
    who, agrees = _on_test_labels(examples)
    estimated = float(np.sum(wrong))
    against, unlikely = (int(np.sum(f(examples.table))) for f in (contradicted, unlikely_on_average))
    summary = {
        "runs": [str(run) for run in examples.runs],
        "dataset": examples.config["data"]["name"],
        "method": examples.config["method"],
        "score": score,
        "sample_weight": weights,
        "num_examples": count,
        "class_names": list(examples.class_names),
        # If no label is contradicted in the end, the estimate is 0 however many have been memorised.
        "is_sure": (agrees is None or agrees.is_enough) and not (unlikely and not against),
        "test_agreement": None if agrees is None else {**agrees._asdict(), "kappa": agrees.kappa},
        "test_classes": None if agrees is None else int(np.count_nonzero(examples.confusion.sum(axis=1))),
        "estimated_wrong": estimated,
        "contradicted": against,
        "unlikely_on_average": unlikely,
        "first_estimated_are_wrong": _mean(wrong[: round(estimated)]),
        "undecided": int(np.sum((wrong > 0.1) & (wrong < 0.9))),
        "classes": _classes(examples, ranked),
        "pairs": _pairs(examples, ranked),
        **(_against_truth(ranked) if "true" in ranked else {}),
    }
    return {**summary, "sentences": _sentences(summary, who, agrees)}


def _on_test_labels(examples: Examples) -> tuple[str, Agreement | None]:
    """Who contradicts the labels, and how far it agrees with the test labels; None if that is not known."""
    if examples.confusion is None:
        return "the classifier", None
    found = {"the classifier": agreement(examples.confusion)}
    if examples.from_pseudo_labels and examples.teacher_share is not None:
        found["the teacher of the pseudo-labels"] = teachers_agreement(
            examples.teacher_share, examples.confusion
        )
    return min(found.items(), key=lambda item: item[1].kappa)


def _classes(examples: Examples, ranked: Table) -> list[dict]:
    size = len(examples.class_names)
    counts = np.bincount(ranked["given_class"], minlength=size)
    wrong = np.bincount(ranked["given_class"], ranked["wrong_probability"], minlength=size)
    return [
        {"class": name, "examples": int(count), "estimated_wrong": float(number)}
        for name, count, number in zip(examples.class_names, counts, wrong, strict=True)
    ]


def _pairs(examples: Examples, ranked: Table) -> list[dict]:
    """The pairs of classes with the most wrong labels, by estimate."""
    size = len(examples.class_names)
    pairs = ranked["given_class"].astype(np.int64) * size + ranked["suggested_class"]
    found, place = np.unique(pairs, return_inverse=True)
    numbers = np.bincount(place, ranked["wrong_probability"])
    most = np.argsort(-numbers, kind="stable")[:_PAIRS]
    return [
        {
            "given": examples.class_names[found[i] // size],
            "suggested": examples.class_names[found[i] % size],
            "estimated_wrong": float(numbers[i]),
        }
        for i in most
        if numbers[i] > 0
    ]


def _against_truth(ranked: Table) -> dict:
    """How well the ranking finds the wrong labels, if these are known."""
    is_wrong = ranked["true"] != ranked["given_class"]
    known = int(np.sum(is_wrong))
    if not 0 < known < len(is_wrong):
        return {"known_wrong": known}
    return {
        "known_wrong": known,
        "auc": ranking_auc(ranked["score"], is_wrong),
        "false_negative_rate": false_negative_rate(ranked["score"], is_wrong),
    }


def ranking_auc(score: np.ndarray, is_wrong: np.ndarray) -> float:
    """The probability that a wrong label has a higher score than a right one; ties count half.

    Args:
        score: [N] float.
        is_wrong: [N] bool, of both kinds at least one.

    Example:
        >>> ranking_auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False]))
        0.625
    """
    values, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    del values
    right = np.bincount(place, ~is_wrong, minlength=len(counts))
    below = np.cumsum(right) - right / 2
    return float(np.mean(below[place[is_wrong]]) / np.sum(~is_wrong))


def false_negative_rate(score: np.ndarray, is_wrong: np.ndarray) -> float:
    """The share of wrong labels that a list misses which is as long as there are wrong labels.

    Args:
        score: [N] float; of equal scores, the first ones are listed.
        is_wrong: [N] bool, with at least one wrong label.

    Example:
        >>> false_negative_rate(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False]))
        0.5
    """
    listed = np.argsort(-score, kind="stable")[: np.sum(is_wrong)]
    return float(1 - np.mean(is_wrong[listed]))


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _sentences(summary: Mapping, who: str, agrees: Agreement | None) -> list[str]:
    """The summary in words, for the screen and for the gallery."""
    count = summary["num_examples"]
    runs = "one run" if len(summary["runs"]) == 1 else f"the average of {len(summary['runs'])} runs"
    lines = [
        f"{summary['dataset']}, {count:,} training examples, by {runs} of {summary['method']}; score: "
        f"{summary['score']}.",
    ]
    if summary["is_sure"]:
        lines += _estimate(summary)
    elif summary["test_classes"] == 1:
        lines.append(
            f"Not sure how many labels are wrong: all test labels are of one class, so that they cannot show "
            f"what {who} has learned. It contradicts {summary['contradicted']:,} of the given labels, which "
            f"may be right: test on examples of all classes."
        )
    elif agrees is None or agrees.is_enough:
        lines.append(
            f"Not sure how many labels are wrong: {who} contradicts none in the end, but may have memorised "
            f"some: {_were_unlikely(summary)}. The ranking is the same: look at the first suspects, or train "
            f"for fewer epochs."
        )
    else:
        lines.append(
            f"Not sure how many labels are wrong: {who} agrees with {100 * agrees.share:.1f}% of the test "
            f"labels, where {100 * agrees.by_chance:.1f}% would be chance (kappa {agrees.kappa:.2f}, expected "
            f"at least {LEAST_KAPPA}), so that it has learned too little, or many test labels are wrong, too. "
            f"It contradicts {summary['contradicted']:,} of the given labels, which may be right, and the "
            f"ranking may be poor: train for longer, or with other settings."
        )
    if "auc" in summary:
        listed = 100 * (1 - summary["false_negative_rate"])
        lines.append(
            f"The true labels are known: {summary['known_wrong']:,} are wrong. AUC {summary['auc']:.3f}; of "
            f"the first {summary['known_wrong']:,} suspects, {listed:.1f}% are wrong."
        )
    elif "known_wrong" in summary:
        lines.append(f"The true labels are known: {summary['known_wrong']:,} are wrong.")
    return lines


def _were_unlikely(summary: Mapping) -> str:
    labels = summary["unlikely_on_average"]
    count = "1 label" if labels == 1 else f"{labels:,} labels"
    return f"{count} had less than half of the probability on average over the epochs"


def _estimate(summary: Mapping) -> list[str]:
    """How many labels are wrong, and how sure that is."""
    count, estimated = summary["num_examples"], summary["estimated_wrong"]
    lines = [
        f"About {estimated:,.0f} labels are wrong ({100 * estimated / count:.1f}%): "
        f"{summary['contradicted']:,} that the classifier contradicts in the end, and an estimate of those "
        "that it has memorised. The number is too low if it has memorised most of them, and too high if it "
        "contradicts right labels of hard examples.",
    ]
    if 2 * summary["contradicted"] < summary["unlikely_on_average"]:
        lines.append(
            f"Wrong labels may have been memorised: {_were_unlikely(summary)}, as happens if the classifier "
            f"learned slowly, too. The ranking is the same."
        )
    if summary["first_estimated_are_wrong"] is not None:
        lines.append(
            f"Of the first {estimated:,.0f} suspects, {100 * summary['first_estimated_are_wrong']:.0f}% are "
            f"expected to be wrong by this estimate; {summary['undecided']:,} labels are undecided (wrong with "
            f"a probability of 10 to 90%)."
        )
    return lines
