"""The console on which tables and lines are printed: words of users stand in them as they are."""

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(piped_width: int | None = None, *, file: TextIO | None = None, stderr: bool = False) -> "Console":
    """A console for which ``[b]`` and ``:smile:`` in the name of a file or a set are letters like all others.

    piped_width: columns where there is no terminal, for which 80 would be assumed and tables folded.
    """
    from rich.console import Console

    console = Console(file=file, stderr=stderr, markup=False, emoji=False)
    if piped_width is not None and not console.is_terminal:
        return Console(file=file, stderr=stderr, markup=False, emoji=False, width=piped_width)
    return console
