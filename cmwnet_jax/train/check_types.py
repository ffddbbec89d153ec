"""Checks that a config has the fields of the default config, with values of the same types."""

from typing import Any

from ml_collections import ConfigDict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.methods.fields import shown

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text without control characters",
    tuple: "a list",
}


def check_types(config: ConfigDict, default: ConfigDict, section: str = "") -> None:
    """Checks that a config has exactly the default's fields, each of the default's type.

    An int is accepted for a float, but a bool is not a number. The contents of tuples are not checked.

    Args:
        config: the config; may be anything that a user passes.
        default: the default config, with every field.
        section: the name of the section with a trailing dot; empty for the whole config.

    Raises:
        UsageError: a field is missing, unknown or of another type; the first such field in alphabetical order
            is named.
    """
    if not isinstance(config, ConfigDict):
        what = section.removesuffix(".") or "the config"
        raise UsageError(
            f"{what} is {shown(config)}, expected a ConfigDict with the fields {', '.join(default)}: change "
            f"fields of default_config() one by one"
        )
    for name in sorted({*config, *default}, key=str):
        field = f"{section}{name}"
        if name not in default:
            raise unknown_name("a field of the config", field, [f"{section}{known}" for known in default])
        if name not in config:
            raise UsageError(f"the config has no field {field!r}: start from default_config(), which has all")
        expected, value = default[name], _value(config, name, field)
        if isinstance(expected, ConfigDict):
            check_types(value, expected, f"{field}.")
        elif not _is_like(value, expected):
            what = _WORDS[type(expected)] + (" of numbers" if isinstance(expected, tuple) and expected else "")
            example = f", e.g. {shown(expected)}" if expected not in ("", False, ()) else ""
            raise UsageError(f"{field} is {shown(value)}, expected {what}{example}")


def _value(config: ConfigDict, name: str, field: str) -> Any:
    try:
        return config[name]
    except Exception as error:  # an unfilled placeholder of ml_collections
        raise UsageError(f"{field} cannot be read ({shown(str(error))}): give it a value") from None


def _is_like(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return isinstance(value, tuple | list)
    if isinstance(expected, float):
        return type(value) in (int, float)
    if isinstance(expected, str):
        return type(value) is str and not any(ord(letter) < 32 or ord(letter) == 127 for letter in value)
    return type(value) is type(expected)
