"""Common parts of the commands: flag parsing, one-sentence errors, exit status.

Status 0: done. 2: error of the user. 3: training diverged. 75 (EX_TEMPFAIL): stopped by SIGTERM or SIGINT; the
same command continues, or starts again. Anything else is a bug or a signal.
"""

import difflib
import io
import itertools
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from cmwnet_jax.errors import Preempted, TrainingDiverged, UsageError, first_line
from cmwnet_jax.files import check_regular

_SAID = 300  # characters shown of an error from other code


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, runs `main`, and exits; errors of the user are printed without a traceback.

    Args:
        main: takes the arguments that are not flags; the first is the program's name.
    """
    # Orbax and tfds log much; Orbax logs an error in each of its threads before raising it once.
    logging.set_verbosity(logging.FATAL)
    for stream in (sys.stdout, sys.stderr):  # a file name may not be encodable
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _say(warnings.showwarning)
    try:
        app.run(main, flags_parser=_parse)
    except UsageError as error:
        _exit(f"error: {error}", 2)
    except TrainingDiverged as error:
        _exit(f"error: {error}", 3)
    except Preempted as stop:
        _exit(f"stopped: {stop}", os.EX_TEMPFAIL)
    except KeyboardInterrupt:  # before signals are handled, or a second time
        _exit("stopped: SIGINT came; what is written stays, and the same command goes on", os.EX_TEMPFAIL)


def _say(show: Callable[..., None]) -> Callable[..., None]:
    """Prints each UserWarning as one line, without the place in the code; others as `show` does."""

    def say(message, category, *place, **options):
        if category is UserWarning:
            print(_one_line(f"warning: {message}"), file=sys.stderr, flush=True)
        else:
            show(message, category, *place, **options)

    return say


def _exit(message: str, status: int) -> NoReturn:
    """Ends the process with one line, whatever characters it contains."""
    print(_one_line(message), file=sys.stderr, flush=True)
    sys.exit(status)


def _one_line(text: str) -> str:
    return "\\n".join(text.splitlines())


def required(value, flag: str, hint: str):
    """Returns the value of a required flag.

    Args:
        value: the flag's value in `flags`.
        flag: name of the flag.
        hint: what to give it, for the error.

    Raises:
        UsageError: the flag was not given.
    """
    if not value:
        raise UsageError(f"--{flag} is missing: give {hint}")
    return value


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; turns errors of config files and overrides into UsageErrors. Also shows the help."""
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
    except (Exception, SystemExit) as error:  # SystemExit comes from the config file: help is already handled
        if "only_check_flags" in asked:
            raise
        causes = list(_causes(error))
        own = [cause for cause in causes if isinstance(cause, UsageError)]
        if own:  # raised by the config file, and wrapped in the text of a traceback since
            raise own[-1] from None
        if isinstance(error, flags.Error) and "\n" not in str(error):
            raise UsageError(str(error)) from None
        raise _unknown_field(argv) or _broken_file(argv, causes[-1]) from error


def _check_config(argv: list[str]) -> None:
    """Raises the error of a config flag, which absl reports only when the value is used."""
    if "config" not in flags.FLAGS or flags.FLAGS["config"].flag_type() == "string" or not _given(argv):
        return
    config = flags.FLAGS["config"].value
    getattr(config, "keys", None)
    if not isinstance(config, ConfigDict) or not config:
        raise UsageError(f"--config={_given(argv)} cannot be used: {no_config(config)}")


def no_config(value: Any) -> str:
    """The message for a get_config that returned something other than a config.

    Args:
        value: the returned value.
    """
    got = "an empty ConfigDict" if isinstance(value, ConfigDict) else type(value).__name__
    return (
        f"its get_config returned {got}, expected a ConfigDict with a run's fields: start from "
        f"cmwnet_jax.train.config.default_config()"
    )


_HELPS = {"help", "helpshort", "helpfull", "helpxml", "h", "?"}


def _show_help(asked: Collection[str]) -> NoReturn:
    """Prints a command's flags and exits, even if other flags are wrong; absl would exit with status 1."""
    if "helpxml" in asked:
        flags.FLAGS.write_help_in_xml_format(sys.stdout)
    elif "helpfull" in asked:
        app.usage(writeto_stdout=True)
    else:
        app.usage(shorthelp=True, writeto_stdout=True)
        print("\nTry --helpfull to get a list of all flags.")
    sys.exit(0)


def load_file(path: str) -> dict[str, Any]:
    """Runs a config file and returns the names that it defines.

    Args:
        path: a Python file.

    Raises:
        UsageError: there is no such file, or it raises an error.
    """
    check_config_file(path)
    try:
        return runpy.run_path(path)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"--config={path} cannot be used, it raised {what_came(error)}") from error


def what_came(error: BaseException) -> str:
    """One line about an error in other code: its type, its message, and where it was raised.

    Args:
        error: an error with a traceback.
    """
    said = " ".join(str(error).split())[:_SAID]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_someones(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):  # its message already has the place
        place = ""
    return f"{type(error).__name__}: {said}{place}"


def _is_someones(file: str) -> bool:
    """Whether a file is the user's or ours, rather than one that all errors pass through."""
    return "site-packages" not in file and not file.startswith("<") and file != __file__


def check_config_file(path: str) -> None:
    """Raises a UsageError unless a config file is a regular file; a pipe would block for ever.

    Args:
        path: the config file; empty if none was given, which is reported elsewhere.
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
    """The error for the first override of a field that the config lacks; None if there is no such override."""
    try:
        config = _load(argv)
    except (Exception, SystemExit):  # the file itself is broken
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
    """The config without overrides; ml_collections reads overrides from `sys.argv` in any case."""
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
