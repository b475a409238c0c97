"""Progress on a terminal, on standard error; elsewhere nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LITTLE: Final = 5000
"""What takes no time that anybody notices."""


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for as long as the block lasts, unless there is little to do.

    Gives what is told how much more was done; both are estimates where others write meanwhile.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = total < _LITTLE or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(doing, total=total)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done = min(total, done + count)
            bar.update(task, completed=done)

        yield advance
