"""Settings in which the runs of one cell differ, although they are averaged."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cmwnet_jax.report.find import Found
from cmwnet_jax.runs.stored import flat, shown

_OF_THE_MACHINE = {
    "data.dir",
    "data.raw_dir",
    "data.also_test_raw_dir",
    "data.open_set_raw_dir",
    "data.workers",
    "data.prefetch_batches",
    "audit.probabilities",
    "chunk_steps",
}
"""Fields without an effect on what is learned."""
_GROUPS = ("checkpoint.", "watch.")
_FILES = {
    "data.record",
    "data.posterior",
    "data.confidences",
    "data.human_labels",
    "loss.forward_posterior",
    "model.pretrained",
    "model.init",
    "weight_net.init",
}
"""Fields with paths of what a run starts from, often another one for each seed."""


def differences(runs: Sequence[Found]) -> dict[tuple[tuple[str, ...], str], str]:
    """How finished runs differ from the first one of their cell, apart from the seed.

    Args:
        runs: finished or not.

    Returns:
        (column, row) -> a sentence that names the first field, both values and their seeds.
    """
    found, first = {}, {}
    for run in (run for run in runs if run.result is not None):
        place = run.column, run.row
        before = first.setdefault(place, run)
        difference = first_difference(before.config, run.config, ignored=("seed",))
        if difference and place not in found:
            name, *values = difference
            own, other = (
                f"{shown(value)} with seed {one.seed}" for value, one in zip(values, (before, run), strict=True)
            )
            found[place] = f"{' '.join([*run.column, run.row])}: {name} is {own} and {other}"
    return found


def first_difference(
    one: Mapping, other: Mapping, ignored: Collection[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first field that has another value in another config, by name; None if there is none.

    Paths and what a machine needs do not count; of what a run starts from, only whether there is any. Nor do
    fields that one of them lacks: it is older.

    Args:
        one: contents of a config.json.
        other: those of another.
        ignored: further fields that do not count.

    Returns:
        (name, value in the one, value in the other).
    """
    fields, others = flat(one), flat(other)
    for name in sorted(fields.keys() & others.keys() - _OF_THE_MACHINE - {*ignored}):
        values = fields[name], others[name]
        own, other = map(bool, values) if name in _FILES else values
        if not name.startswith(_GROUPS) and own != other:
            return name, *values
    return None
