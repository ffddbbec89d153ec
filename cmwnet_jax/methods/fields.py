"""Config fields as values: a default, a comment, and a check. A method declares those that it reads."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import local_path

Value = bool | int | float | str | tuple
"""What a config field may hold; its default says which."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
        default: its value where nothing is said; a config's value has the same type.
        comment: what it means, with its unit; a sentence.
        check: (the field's name, a value of the right type) -> None, or a UsageError.
    """

    default: Value
    comment: str
    check: Callable[[str, Any], None] = lambda name, value: None


Fields = Mapping[str, Field]
"""Fields by their names, with dots, e.g. `loss.focal_gamma`."""


def add_fields(config: ConfigDict, fields: Fields) -> None:
    """Puts fields' defaults into a config, and makes the sections that they are in.

    Args:
        config: unlocked.
        fields: by name.
    """
    for name, field in fields.items():
        *sections, last = name.split(".")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ConfigDict()
            place = place[section]
        place[last] = field.default


def merged(groups: Iterable[Fields]) -> dict[str, Field]:
    """All fields of several groups, each once.

    Args:
        groups: of which several may have the same field.

    Raises:
        UsageError: two of them mean something else by one name.
    """
    fields = {}
    for group in groups:
        for name, field in group.items():
            if fields.setdefault(name, field) is not field:
                raise UsageError(f"the config field {name!r} is declared twice: choose another name")
    return fields


def value_of(config: ConfigDict, name: str) -> Any:
    """A field's value.

    Args:
        config: has it.
        name: with dots.
    """
    for part in name.split("."):
        config = config[part]
    return config


def between(least: float, most: float) -> Callable[[str, Any], None]:
    """A check: a finite number from `least` to `most`, both included."""

    def check(name: str, value: Any) -> None:
        if not least <= value <= most:
            raise UsageError(
                f"{name} is {shown(value)}, expected a number that is finite and at least {least}, and at "
                f"most {most}"
            )

    return check


def within(interval: str) -> Callable[[str, Any], None]:
    """A check: a number in an interval, e.g. `[0, 1)`."""
    low, high = (float(part.strip("[]() ")) for part in interval.split(","))

    def check(name: str, value: Any) -> None:
        above = value >= low if interval.startswith("[") else value > low
        below = value <= high if interval.endswith("]") else value < high
        if not (above and below and abs(value) <= LARGE):
            raise UsageError(f"{name} is {shown(value)}, expected a number in {interval}")

    return check


def percent_of_steps(name: str, value: Any) -> None:
    """A check: from 0 to 100."""
    if not 0 <= value <= 100:
        raise UsageError(f"{name} is {shown(value)}, expected a per cent of the steps, 0 to 100")


def one_of(names: Collection[str]) -> Callable[[str, Any], None]:
    """A check: a name of a collection, which is looked at when a config is checked."""

    def check(name: str, value: Any) -> None:
        if value not in names:
            raise unknown_name(name, value, names)

    return check


def local_file(name: str, value: Any) -> None:
    """A check: empty, or a path of this machine."""
    if value:
        local_path(name, value)


def check_entries(name: str, values: Any) -> None:
    """A check: a list that is not too long."""
    if len(values) > _LONGEST:
        raise UsageError(f"{name} has {len(values)} entries, expected at most {_LONGEST}")


def more_than_nothing(config: ConfigDict, *names: str) -> None:
    """Raises a UsageError where a field is 0, and its method would be plain training under another name.

    Args:
        config: the run's.
        *names: of the fields.
    """
    for name in names:
        if is_nothing(value_of(config, name)):
            raise UsageError(
                f"{name} is {value_of(config, name)}, with which {config.method} would be plain training: set "
                f"it to more than 0"
            )


def reads_options(config: ConfigDict, options: Mapping[str, Collection[str]], defaults: ConfigDict) -> None:
    """Raises a UsageError for an option that is set, and that the method does not read.

    Args:
        config: the run's.
        options: field -> names of the methods that read it.
        defaults: every field's.
    """
    for name, readers in options.items():
        value, default = value_of(config, name), value_of(defaults, name)
        if value != default and config.method not in readers:
            raise UsageError(
                f"{name} is {shown(value)}, which {config.method} does not read: leave it {shown(default)}, or "
                f"take the method {' or '.join(readers)}"
            )


def is_nothing(value: float) -> bool:
    """Whether a number is 0 as the devices have it, in float32."""
    return not np.float32(value) > 0


def shown(value: Any) -> str:
    """A value for a message: on one line, and not too long.

    Args:
        value: anything.
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever somebody put into a config, e.g. a number of more than 4,300 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


MANY = 10**6
"""More of anything than anybody means."""

INT32 = 2**31 - 1
"""What steps and rows are counted in on the devices."""

LARGE = 1e30
"""Finite in float32, too."""

_LONGEST = 100  # entries of a tuple
