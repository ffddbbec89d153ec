"""What a user can mend, told apart from bugs."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UsageError(ValueError):
    """A value that the user gave cannot be used; the message is one sentence for them.

    It names the field, what it got, what is expected and what to do. Commands print it without
    a traceback and exit with status 2.
    """


class TrainingDiverged(RuntimeError):
    """A run's numbers have become NaN or infinite, or its weights all 0; training cannot go on.

    The message says which quantity, at which step and on which examples. Commands print it without
    a traceback and exit with status 3.
    """


def unknown_name(field: str, got: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list of names, with the nearest one that is.

    Args:
        field: the config field or argument that held the name.
        got: the name.
        known: the names that would have been right.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(str(got), known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UsageError(f"{field} is {got!r}, expected one of {', '.join(known)}{hint}")


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """Puts a config field's name before the UsageErrors of what is done with it.

    Args:
        field: the field.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error


class Preempted(Exception):
    """A run was asked to stop, has saved all it did, and can be continued.

    Commands print the message and exit with status 75, the system's "try again" (EX_TEMPFAIL).
    """


def first_line(error: BaseException) -> str:
    """An error in a few words, for a message about what it means.

    Args:
        error: anybody's; TensorStore's messages go on with pages of settings.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]
