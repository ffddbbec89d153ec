"""What every command shares: flags in, one sentence and a status out.

Status 0: done. 2: the user erred. 3: training broke down. 75 (EX_TEMPFAIL): asked to stop by SIGTERM or
SIGINT; the same command goes on, or does it again. Anything else is a bug or a signal.
"""

import difflib
import io
import itertools
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from cmwnet_jax.errors import Preempted, TrainingDiverged, UsageError, first_line
from cmwnet_jax.files import check_regular

_SAID = 300  # characters of what somebody else's error says


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, runs `main`, and exits; errors that a user can mend are printed without a traceback.

    Args:
        main: takes the arguments that are not flags, the program's name first.
    """
    # Orbax and tfds narrate; Orbax logs an error from each of its threads before it raises it once.
    logging.set_verbosity(logging.FATAL)
    for stream in (sys.stdout, sys.stderr):  # names of files may be what no encoding knows
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app.run(main, flags_parser=_parse)
    except UsageError as error:
        _exit(f"error: {error}", 2)
    except TrainingDiverged as error:
        _exit(f"error: {error}", 3)
    except Preempted as stop:
        _exit(f"stopped: {stop}", os.EX_TEMPFAIL)
    except KeyboardInterrupt:  # where nobody listens for it, or for the second time
        _exit("stopped: SIGINT came; what is written stays, and the same command goes on", os.EX_TEMPFAIL)


def _exit(message: str, status: int) -> NoReturn:
    """Ends the process with one line, whatever the names in it hold."""
    print("\\n".join(message.splitlines()), file=sys.stderr, flush=True)
    sys.exit(status)


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
    """`flags.FLAGS`, with what config files and overrides raise turned into UsageErrors; or the help."""
    asked = [
        arg.lstrip("-") for arg in itertools.takewhile(lambda arg: arg != "--", argv[1:]) if arg[:1] == "-"
    ]
    if helps := _HELPS.intersection(asked):
        _show_help(helps)
    check_config_file(_given(argv).partition(":")[0])
    try:
        rest = flags.FLAGS(argv)
        _check_config(argv)
        return rest
    except (Exception, SystemExit) as error:  # the latter, too, is the config file's: help has been given
        if "only_check_flags" in asked:
            raise
        causes = list(_causes(error))
        own = [cause for cause in causes if isinstance(cause, UsageError)]
        if own:  # raised by the config file, and wrapped in a traceback's text on the way
            raise own[-1] from None
        if isinstance(error, flags.Error) and "\n" not in str(error):
            raise UsageError(str(error)) from None
        raise _unknown_field(argv) or _broken_file(argv, causes[-1]) from error


def _check_config(argv: list[str]) -> None:
    """Raises what went wrong with a config flag, which says so only when its value is used."""
    if "config" not in flags.FLAGS or flags.FLAGS["config"].flag_type() == "string" or not _given(argv):
        return
    config = flags.FLAGS["config"].value
    getattr(config, "keys", None)
    if not isinstance(config, ConfigDict) or not config:
        raise UsageError(f"--config={_given(argv)} cannot be used: {no_config(config)}")


def no_config(value: Any) -> str:
    """What to say of a get_config that returned something else.

    Args:
        value: that.
    """
    got = "an empty ConfigDict" if isinstance(value, ConfigDict) else type(value).__name__
    return (
        f"its get_config returned {got}, expected a ConfigDict with a run's fields: start from "
        f"cmwnet_jax.train.config.default_config()"
    )


_HELPS = {"help", "helpshort", "helpfull", "helpxml", "h", "?"}


def _show_help(asked: Collection[str]) -> NoReturn:
    """Prints a command's flags and exits, whatever the other flags are; absl would exit with status 1."""
    if "helpxml" in asked:
        flags.FLAGS.write_help_in_xml_format(sys.stdout)
    elif "helpfull" in asked:
        app.usage(writeto_stdout=True)
    else:
        app.usage(shorthelp=True, writeto_stdout=True)
        print("\nTry --helpfull to get a list of all flags.")
    sys.exit(0)


def load_file(path: str) -> dict[str, Any]:
    """The names that a config file defines.

    Args:
        path: a Python file.

    Raises:
        UsageError: there is no such file, or it raises something itself.
    """
    check_config_file(path)
    try:
        return runpy.run_path(path)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"--config={path} cannot be used, it raised {what_came(error)}") from error


def what_came(error: BaseException) -> str:
    """An error of somebody else's code in one line: its type, what it says, and where it was raised.

    Args:
        error: with its traceback.
    """
    said = " ".join(str(error).split())[:_SAID]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_someones(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):  # which says itself where
        place = ""
    return f"{type(error).__name__}: {said}{place}"


def _is_someones(file: str) -> bool:
    """Whether a file is the user's or ours, and not one through which all errors come."""
    return "site-packages" not in file and not file.startswith("<") and file != __file__


def check_config_file(path: str) -> None:
    """Raises a UsageError for what is no file; one of the user's pipes would be waited on.

    Args:
        path: of a config file; empty where none was given, which others say.
    """
    try:
        if path:
            check_regular(Path(path))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--config={path} cannot be used, it raised OSError: {first_line(error)}: check the path"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_field(argv: list[str]) -> UsageError | None:
    """The error for the first override of a field that the config has not, if there is one."""
    try:
        config = _load(argv)
    except (Exception, SystemExit):  # the file itself is what is broken
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
    return load_file(path)["get_config"](*([arg] if arg else []))


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
    return UsageError(f"--config={_given(argv)} cannot be used, it raised {what_came(cause)}")
