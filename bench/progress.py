"""A progress bar where somebody watches, and silence elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class Bar:
    """One line of progress at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def doing(self, what: str, total: int) -> Iterator[Advance]:
        """Show a task of `total` steps until the end of the block; gives what advances it."""
        task = self._progress.add_task(what, total=total)
        try:
            yield lambda steps: self._progress.update(task, advance=steps)
        finally:
            self._progress.remove_task(task)

    def say(self, line: str) -> None:
        """Say a line that stays, above the bar."""
        if self._progress.disable:
            sys.stderr.write(f"{line}\n")
        else:
            self._progress.console.print(line, highlight=False, markup=False)


@contextmanager
def shown() -> Iterator[Bar]:
    """Show progress on standard error; seldom drawn, because it takes time from what we measure."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, refresh_per_second=1
    ) as progress:
        yield Bar(progress)
