"""What every command shares: flags in, one sentence and a status out.

Status 0: done. 2: the user erred. 75 (EX_TEMPFAIL): asked to stop by SIGTERM or SIGINT, and saved; the
same command goes on. Anything else is a bug or a signal.
"""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cmwnet_jax.errors import Preempted, UsageError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, runs `main`, and exits; a UsageError or Preempted is printed without a traceback.

    Args:
        main: takes the arguments that are not flags, the program's name first.
    """
    # Orbax and tfds narrate; Orbax logs an error from each of its threads before it raises it once.
    logging.set_verbosity(logging.FATAL)
    try:
        app.run(main, flags_parser=_parse)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Preempted as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)


def required(value, flag: str, hint: str):
    """The value of a flag that a command cannot do without.

    Args:
        value: what `flags` holds for it.
        flag: its name.
        hint: what to give it.

    Raises:
        UsageError: it was not given.
    """
    if not value:
        raise UsageError(f"--{flag} is missing: give {hint}")
    return value


def _parse(argv: list[str]) -> list[str]:
    """`flags.FLAGS`, with what config files and overrides raise turned into UsageErrors."""
    try:
        rest = flags.FLAGS(argv)
        _check_config_was_read()
        return rest
    except UsageError:
        raise
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except AttributeError as error:  # an override of a field that the config has not
        raise UsageError(_unknown_field(argv, error)) from error
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"--config cannot be used: {' '.join(str(_root(error)).split())}") from error


def _check_config_was_read() -> None:
    """A config file that cannot be read is an error only when it is used; here is better than later."""
    value = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if value is not None and not isinstance(value, ConfigDict):
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UsageError(
            f"--config is {path!r}, which cannot be read, expected a Python file whose get_config(arg) returns "
            f"a ConfigDict: check the path"
        )


def _unknown_field(argv: list[str], error: AttributeError) -> str:
    message = " ".join(str(error).replace("\\n", " ").split())
    nearest = message.split('Did you mean "')[1].split('"')[0] if "Did you mean" in message else None
    names = [arg.split("=")[0].removeprefix("--config.") for arg in argv if arg.startswith("--config.")]
    named = next((name for name in names if f"'{name.split('.')[-1]}" in message), ", ".join(names))
    hint = f"; did you mean {'.'.join([*named.split('.')[:-1], nearest])!r}?" if nearest else ""
    return f"the config has no field {named!r}{hint} (--print_config lists them all)"


def _root(error: BaseException) -> BaseException:
    """The first cause of a chain of errors."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error
