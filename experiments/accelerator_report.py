"""The Markdown of `experiments.on_accelerator`. Needs no JAX."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cmwnet_jax.runs import stored

_RUN_COLUMNS = {
    "epochs_done": ("epochs", "{}"),
    "num_epochs": ("of", "{}"),
    "accuracy_percent_last": ("test accuracy, last epoch (%)", "{:.2f}"),
    "accuracy_percent_last10": (f"mean of the last {stored.LAST_EPOCHS}", "{:.2f}"),
    "epoch_seconds_plain": ("s an epoch, plain", "{:.2f}"),
    "epoch_seconds_meta": ("with meta steps", "{:.2f}"),
    "seconds": ("s in all", "{:.0f}"),
}


def summary_of_run(run: Path) -> dict | None:
    """What a run has come to, finished or not; None if it has finished no epoch.

    Args:
        run: its folder.

    Returns:
        `epochs_done`, `num_epochs`; the test accuracy in the last epoch and, of a finished run, the mean of its
        last 10 epochs; seconds of all epochs, compilation included, in all launches; and the median of an epoch
        of plain training and of one with meta steps, compilation excluded, None where there is none.
    """
    lines = stored.read_metrics(run)
    if not lines:
        return None
    result = stored.read_result(run) or {}
    meta = [line.get("meta_loss") is not None for line in lines]
    return {
        "epochs_done": len(lines),
        "num_epochs": stored.read_config(run)["num_epochs"],
        "accuracy_percent_last": lines[-1]["test_accuracy_percent"],
        "accuracy_percent_last10": result.get(stored.ACCURACY),
        "seconds": sum(line["seconds"] for line in lines),
        "epoch_seconds_plain": _median(line for line, is_meta in zip(lines, meta, strict=True) if not is_meta),
        "epoch_seconds_meta": _median(line for line, is_meta in zip(lines, meta, strict=True) if is_meta),
    }


def _median(lines: Iterable[Mapping]) -> float | None:
    seconds = [line["seconds"] - line["seconds_compile"] for line in lines]
    return statistics.median(seconds) if seconds else None


def markdown(contents: Mapping, printed: Mapping[str, str]) -> str:
    """The whole text.

    Args:
        contents: of the JSON file.
        printed: what the finished commands printed, by name.
    """
    parts = ["# On an accelerator", _calls(contents["calls"]), "## Runs", _runs(contents["runs"])]
    parts += ["## Commands", _commands(contents["commands"])]
    for one in contents["commands"]:
        if text := printed.get(one["name"], "").rstrip():
            parts += [f"## {one['name']}", f"`{one['command']}`", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def _calls(calls: Sequence[Mapping]) -> str:
    lines = []
    for call in calls:
        versions = ", ".join(f"{name} {version}" for name, version in call["versions"].items() if version)
        cards = "; ".join(call["cards"]) or "no NVIDIA card"
        lines.append(
            f"- {call['started']}, {call['minutes']:g} minutes: `{call['command']}`; {cards}; "
            f"{call['processor']}, {call['cores']} cores; {versions}"
        )
    return "\n".join(lines)


def _runs(runs: Mapping[str, Mapping]) -> str:
    if not runs:
        return "None has finished an epoch."
    rows = [
        [
            name,
            *(
                "-" if run[field] is None else form.format(run[field])
                for field, (_, form) in _RUN_COLUMNS.items()
            ),
        ]
        for name, run in runs.items()
    ]
    return _table(["run", *(title for title, _ in _RUN_COLUMNS.values())], rows)


def _commands(commands: Sequence[Mapping]) -> str:
    rows = []
    for one in commands:
        seconds = sum(launch["seconds"] for launch in one["launches"])
        rows.append([one["name"], one["state"], f"{seconds:.0f}", f"`{one['command']}`"])
    return _table(["name", "state", "s", "command"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
