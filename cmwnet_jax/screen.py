"""Rich console for the commands, without markup."""

from rich.console import Console


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints names and paths literally, so that `[a]` and `:b:` are not taken for markup.

    Args:
        stderr: whether to write to stderr instead of stdout.
        width: in characters; None for the width of the terminal.
    """
    return Console(stderr=stderr, width=width, markup=False, emoji=False)
