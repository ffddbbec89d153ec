"""Declarations of config fields: default, comment and check. Each method declares the fields that it reads."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.files import local_path

Value = bool | int | float | str | tuple
"""The types of a config field's value."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
        default: the default value; it also sets the field's type.
        comment: the field's meaning, with its unit, as one sentence. `--explain_config` prints it.
        check: (field name, value of the right type) -> None; raises a UsageError for a bad value.
        older: how runs were trained before the field existed, if not with the default; None for the default.
    """

    default: Value
    comment: str
    check: Callable[[str, Any], None] = lambda name, value: None
    older: Value | None = None


Fields = Mapping[str, Field]
"""Dotted name -> field, e.g. `loss.focal_gamma`."""


def mixing_off(fields: Fields) -> dict[str, bool | float]:
    """The fields that mix inputs up, which tokens cannot be, with the values for no mixup.

    Args:
        fields: the fields of a method.
    """
    mixing = [name for name in fields if name.endswith(("mixup_alpha", "meta_set.mixup"))]
    return {name: type(fields[name].default)(0) for name in mixing}


def add_fields(config: ConfigDict, fields: Fields) -> None:
    """Adds the fields' defaults to a config in place; missing sections are created.

    Args:
        config: an unlocked config.
        fields: the fields, by dotted name.
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
    """Merges groups of fields.

    Args:
        groups: several may contain the same field.

    Raises:
        UsageError: two groups declare different fields under the same name.
    """
    fields = {}
    for group in groups:
        for name, field in group.items():
            if fields.setdefault(name, field) is not field:
                raise UsageError(f"the config field {name!r} is declared twice: choose another name")
    return fields


def value_of(config: ConfigDict, name: str) -> Any:
    """Reads a field's value from a config.

    Args:
        config: a config that has the field.
        name: the field's dotted name.
    """
    for part in name.split("."):
        config = config[part]
    return config


def between(least: float, most: float) -> Callable[[str, Any], None]:
    """Makes a check for a finite number from `least` to `most`, both included."""

    def check(name: str, value: Any) -> None:
        if not least <= value <= most:
            raise UsageError(
                f"{name} is {shown(value)}, expected a number that is finite and at least {least}, and at "
                f"most {most}"
            )

    return check


def within(interval: str) -> Callable[[str, Any], None]:
    """Makes a check for a finite number in an interval, e.g. `[0, 1)`."""
    low, high = (float(part.strip("[]() ")) for part in interval.split(","))

    def check(name: str, value: Any) -> None:
        above = value >= low if interval.startswith("[") else value > low
        below = value <= high if interval.endswith("]") else value < high
        if not (above and below and abs(value) <= LARGE):
            raise UsageError(f"{name} is {shown(value)}, expected a number in {interval}")

    return check


def percent_of_steps(name: str, value: Any) -> None:
    """Checks a percentage of the run's steps: 0 to 100."""
    if not 0 <= value <= 100:
        raise UsageError(f"{name} is {shown(value)}, expected a per cent of the steps, 0 to 100")


def one_of(names: Collection[str]) -> Callable[[str, Any], None]:
    """Makes a check for a name in a collection; names added before the check runs count too."""

    def check(name: str, value: Any) -> None:
        if value not in names:
            raise unknown_name(name, value, names)

    return check


def local_file(name: str, value: Any) -> None:
    """Checks that a value is empty or a local path."""
    if value:
        local_path(name, value)


def check_entries(name: str, values: Any) -> None:
    """Checks that a list has at most 100 entries."""
    if len(values) > _LONGEST:
        raise UsageError(f"{name} has {len(values)} entries, expected at most {_LONGEST}")


def more_than_nothing(config: ConfigDict, *names: str) -> None:
    """Raises a UsageError if a field is 0, since its method would then be plain training.

    Args:
        config: the run's config.
        *names: the fields' dotted names.
    """
    for name in names:
        if is_nothing(value_of(config, name)):
            raise UsageError(
                f"{name} is {value_of(config, name)}, with which {config.method} would be plain training: set "
                f"it to more than 0"
            )


def reads_options(config: ConfigDict, options: Mapping[str, Collection[str]], defaults: ConfigDict) -> None:
    """Raises a UsageError if an option differs from its default but the method does not read it.

    Args:
        config: the run's config.
        options: dotted field name -> names of the methods that read it.
        defaults: the default config.
    """
    for name, readers in options.items():
        value, default = value_of(config, name), value_of(defaults, name)
        if value != default and config.method not in readers:
            raise UsageError(
                f"{name} is {shown(value)}, which {config.method} does not read: leave it {shown(default)}, or "
                f"take the method {' or '.join(readers)}"
            )


def is_nothing(value: float) -> bool:
    """Whether a number is 0 (or less) in float32, the devices' precision."""
    return not np.float32(value) > 0


def shown(value: Any) -> str:
    """Formats a value for a message: one line, at most 80 characters.

    Args:
        value: anything.
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # configs may hold anything, e.g. an integer of more than 4,300 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


MANY = 10**6
"""A generous upper limit for counts."""

INT32 = 2**31 - 1
"""The largest step or row number on the devices."""

LARGE = 1e30
"""A generous upper limit for floats; still finite in float32."""

_LONGEST = 100  # entries of a tuple
