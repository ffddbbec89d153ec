"""The default config, the explanation of its fields, and the parser of a config's argument string."""

import json
import os
import textwrap
from typing import Any

from ml_collections import ConfigDict, config_dict

from cmwnet_jax.errors import UsageError, unknown_name
from cmwnet_jax.methods import METHODS
from cmwnet_jax.methods.fields import Field, add_fields, merged, value_of
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.runs.stored import as_json
from cmwnet_jax.train.config_fields import FIELDS


def all_fields() -> dict[str, Field]:
    """Returns the launcher's fields and those of every registered method, by name."""
    return merged([FIELDS, *(spec.fields for spec in METHODS.values())])


def default_config() -> ConfigDict:
    """Returns the default config: CMW-Net on the bundled digits without bias. Experiments change its fields."""
    config = ConfigDict()
    add_fields(config, all_fields())
    return config.lock()


def explained(config: ConfigDict) -> str:
    """Formats every field with its value, and its meaning as a comment above.

    Args:
        config: any config.
    """
    lines = []
    for name, field in sorted(all_fields().items(), key=lambda item: item[0].split(".")[:-1]):
        comment = textwrap.fill(field.comment, 100, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{comment}\n{name} = {value_of(config, name)!r}\n")
    return "\n".join(lines)


def run_folder(path: str | os.PathLike) -> RunFolder:
    """Opens a run's folder. Fields that its config does not have yet get their defaults.

    Args:
        path: the path of the folder.
    """
    return RunFolder(path, with_defaults)


def with_defaults(fields: dict) -> dict:
    """Adds missing fields to those of a config.json, with the values that the run was trained with.

    These are the defaults, or the fields' `older` values.

    Args:
        fields: the fields in the file.
    """
    older = {name: field.older for name, field in all_fields().items() if field.older is not None}
    config = default_config()
    config.update_from_flattened_dict(older)
    return _filled(fields, json.loads(as_json(config)))


def _filled(fields: Any, defaults: dict) -> Any:
    if not isinstance(fields, dict):  # from a damaged file; left for the comparison to report
        return fields
    filled = {
        name: _filled(fields.get(name, {}), value)
        for name, value in defaults.items()
        if isinstance(value, dict)
    }
    return {**defaults, **fields, **filled}


def parse_arg(arg: str, positional: tuple[str, ...], **defaults: str | int) -> config_dict.ConfigDict:
    """Parses a config's argument string, e.g. `long_tail_10,erm,seed=3`.

    Args:
        arg: the text after the colon: positional values, then name=value.
        positional: names of the positional values, in order.
        **defaults: every name with its default value, which sets its type.

    Raises:
        UsageError: too many values, an unknown name, a name given twice, or a value of the wrong type.
    """
    values = {}
    tokens = [token.strip() for token in arg.split(",")] if arg else []
    for position, token in enumerate(tokens):
        name, has_name, text = token.partition("=")
        if not has_name:
            if position >= len(positional):
                raise UsageError(
                    f"the config's argument {arg!r} has {token!r} at place {position + 1}, expected at most "
                    f"{','.join(positional)}, then name=value"
                )
            name, text = positional[position], token
        if name not in defaults:
            raise unknown_name("a name in the config's argument", name, defaults)
        if text and name in values:
            raise UsageError(f"{name} is given twice in the config's argument {arg!r}: leave one of them out")
        if text:
            values[name] = _typed(name, text, type(defaults[name]))
    return ConfigDict({**defaults, **values})


def _typed(name: str, text: str, kind: type) -> str | int | float:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r} in the config's argument, expected {kind.__name__}") from None
