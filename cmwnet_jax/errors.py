"""Errors that a user can fix, as distinct from bugs."""

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Iterable, Iterator

_LISTED = 60  # largest number of names in a message; more would hide the suggestion


class UsageError(ValueError):
    """The user gave a value that cannot be used; the message is one sentence for the user.

    It names the field, the value, what is expected and what to do. Commands print it without a traceback and
    exit with status 2.
    """


class TrainingDiverged(RuntimeError):
    """Training cannot continue: the run's numbers became NaN or infinite, or all its weights 0.

    The message names the quantity, the step and the examples. Commands print it without a traceback and exit
    with status 3.
    """


class MissingExtra(UsageError, ImportError):
    """A part of the package needs an extra that is not installed; the message has the line for pip."""


def need(extra: str, *modules: str) -> None:
    """Checks that an extra of pyproject.toml is installed, before a part of the package imports its modules.

    A command (`python -m ...`) prints the sentence without a traceback and exits with status 2.

    Args:
        extra: name of the extra.
        *modules: the top-level modules of it that this part imports.

    Raises:
        MissingExtra: some are not installed.
    """
    missing = [
        name for name in modules if sys.modules.get(name) is None and importlib.util.find_spec(name) is None
    ]
    if not missing:
        return
    error = MissingExtra(
        f"this part of cmwnet_jax needs {', '.join(missing)} from its extra {extra!r}, which is not installed: "
        f"run {pip_line(extra)}"
    )
    if _is_command():
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    raise error


def pip_line(extra: str) -> str:
    """The command that installs an extra, for a message.

    Args:
        extra: name of the extra.
    """
    from importlib import metadata  # takes a while, and only errors need it

    try:
        metadata.version("cmwnet_jax")
        return f"pip install 'cmwnet_jax[{extra}]'"
    except metadata.PackageNotFoundError:  # imported from a clone that is not installed
        return f"pip install '.[{extra}]' in the clone of cmwnet_jax"


def _is_command() -> bool:
    """Whether this process is `python -m` of a command of ours; its module may not have begun to run."""
    options = sys.orig_argv[1:]
    module = options[options.index("-m") + 1 :][:1] if "-m" in options else []
    return bool(module) and module[0].split(".")[0] in ("cmwnet_jax", "experiments")


def unknown_name(field: str, got: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list of names; suggests the most similar one.

    Args:
        field: the config field or argument.
        got: the name that was given.
        known: the valid names.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(str(got), known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(known) if len(known) <= _LISTED else f"{len(known)} names, e.g. {known[0]}"
    got = str(got) if isinstance(got, str) else got  # NumPy's would be shown as np.str_('...')
    return UsageError(f"{field} is {got!r}, expected one of {listed}{hint}")


@contextlib.contextmanager
def naming_field(field: str) -> Iterator[None]:
    """Context manager that puts a config field's name before the message of a UsageError.

    Args:
        field: name of the field.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error


class Preempted(Exception):
    """A run was asked to stop, has saved its state, and can be continued.

    Commands print the message and exit with status 75, the system's "try again" (EX_TEMPFAIL).
    """


def first_line(error: BaseException) -> str:
    """A short form of an error's message, to be quoted in another message.

    Args:
        error: any error; those of TensorStore continue with pages of settings.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]
