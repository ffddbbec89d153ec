"""How the commands write on the terminal: as it stands."""

from rich.console import Console


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints names and paths literally, where Rich would take `[a]` and `:b:` for markup.

    Args:
        stderr: whether it writes there instead of to stdout.
        width: in characters; None for the terminal's.
    """
    return Console(stderr=stderr, width=width, markup=False, emoji=False)
