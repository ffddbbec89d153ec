"""What the examination of a set finds, as lines for the user."""

import dataclasses
from collections.abc import Generator, Sequence


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        text: what was found, in plain words.
        is_problem: whether a run cannot start like this.
    """

    text: str
    is_problem: bool = False


Names = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of a set's splits and of its classes; empty where they are not known yet."""

Findings = Generator[Finding, None, Names]
"""Findings about a set, with its `Names` as the result."""


def shown_bytes(count: int) -> str:
    """A number of bytes in words, e.g. `1.5 GB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def shown_duration(seconds: float) -> str:
    """A duration in words, at least `1 second`."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    whole = max(round(seconds), 1)
    return f"{whole} seconds" if whole > 1 else "1 second"


def report_line(finding: Finding) -> str:
    """A mark and the sentence.

    Args:
        finding: the finding.
    """
    return f"{'WRONG' if finding.is_problem else 'ok':5}  {finding.text}"


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: how many things are wrong.

    Args:
        findings: all findings.
    """
    problems = sum(finding.is_problem for finding in findings)
    return {0: "nothing is wrong", 1: "1 thing is wrong"}.get(problems, f"{problems} things are wrong")
