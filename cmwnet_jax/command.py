"""What every command shares: flags in, one sentence and a status out.

Status 0: done. 2: the user erred. 3: training broke down. 75 (EX_TEMPFAIL): asked to stop by SIGTERM or
SIGINT, and saved; the same command goes on. Anything else is a bug or a signal.
"""

import difflib
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

from cmwnet_jax import files
from cmwnet_jax.errors import Preempted, TrainingDiverged, UsageError, first_line


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, runs `main`, and exits; errors that a user can mend are printed without a traceback.

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
    except TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except Preempted as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except KeyboardInterrupt:  # in the commands that do not train, and so have nothing to save
        print("stopped: SIGINT came; the same command does it again", file=sys.stderr)
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


def check_config_file(path: str) -> None:
    """Raises a UsageError where a config file is none; a pipe would be waited on for ever.

    Args:
        path: what was given; where nothing is, whoever opens it says so.
    """
    try:
        if os.path.lexists(path):
            files.check_regular(Path(path))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--config={path} cannot be used, it is {first_line(error)}: name a .py file"
        ) from None


def _parse(argv: list[str]) -> list[str]:
    """`flags.FLAGS`, with what config files and overrides raise turned into UsageErrors."""
    check_config_file(_given(argv).partition(":")[0])
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            getattr(flags.FLAGS["config"].value, "keys", None)  # a config that failed to load says so only now
        return rest
    except Exception as error:
        causes = list(_causes(error))
        own = [cause for cause in causes if isinstance(cause, UsageError)]
        if own:  # raised by the config file, and wrapped in a traceback's text on the way
            raise own[-1] from None
        if isinstance(error, flags.Error) and "\n" not in str(error):
            raise UsageError(str(error)) from None
        raise _unknown_field(argv) or _broken_file(argv, causes[-1]) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_field(argv: list[str]) -> UsageError | None:
    """The error for the first override of a field that the config has not, if there is one."""
    try:
        config = _load(argv)
    except Exception:  # the file itself is what is broken
        return None
    for arg in argv:
        if arg.startswith("--config."):
            name = arg.removeprefix("--config.").split("=")[0]
            section = config
            for place, part in enumerate(name.split(".")):
                if not isinstance(section, ConfigDict) or part not in section:
                    known = section if isinstance(section, ConfigDict) else ()
                    before = "".join(f"{outer}." for outer in name.split(".")[:place])
                    return _no_field(before + part, [before + other for other in known])
                section = section[part]
    return None


def _load(argv: list[str]) -> ConfigDict:
    """The config without overrides; ml_collections reads those from `sys.argv` whatever it is given."""
    path, _, arg = _given(argv).partition(":")
    return runpy.run_path(path)["get_config"](*([arg] if arg else []))


def _no_field(name: str, known: list[str]) -> UsageError:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UsageError(f"the config has no field {name!r}{hint} (--print_config lists them all)")


def _given(argv: list[str]) -> str:
    """The last --config, as `--config=X` or `--config X`."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    configs = [(arg, after) for arg, after in pairs if arg.lstrip("-").split("=")[0] == "config"]
    arg, after = configs[-1] if configs else ("", "")
    return arg.partition("=")[2] if "=" in arg else after


def _broken_file(argv: list[str], cause: BaseException) -> UsageError:
    given = f"--config={_given(argv)}"
    said = " ".join(str(cause).split())
    return UsageError(f"{given} cannot be used, it raised {type(cause).__name__}: {said}")
