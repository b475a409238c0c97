"""Output of the commands: JSON, tables, warnings, questions and progress bars."""

import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_WIDE: Final = 120
_MIN_PROGRESS: Final = 5000
"""Fewer items than this take no noticeable time, and get no progress bar."""


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_document(document: bytes) -> None:
    """Print JSON over several lines, on a terminal with colours."""
    console = Console()
    if console.is_terminal:
        console.print_json(document.decode())
    else:
        sys.stdout.buffer.write(msgspec.json.format(document, indent=2) + b"\n")


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool = False,
    optional: Container[str] = (),
) -> None:
    """Print rows: a table on a terminal, tab-separated elsewhere, or as JSON lines.

    JSON has all members of a row. In a table the first column is never wrapped, so that it can be
    copied; `optional` columns are left out on a narrow terminal.
    """
    if as_json:
        for row in rows:
            print_json(row)
        return
    console = Console()
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(printable(row[name]) for name in columns) + "\n")
        return
    shown = [name for name in columns if name not in optional or console.width >= _WIDE]
    table = Table(*shown, box=None, header_style="bold")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(printable(row[name]), overflow="fold") for name in shown))
    console.print(table)


def printable(value: object) -> str:
    """Return a value as text in which control and invisible characters are escaped."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn(message: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"chatwoot-cache: {printable(message)}\n")


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on a terminal, unless `yes`; without a terminal the answer is yes."""
    if yes or not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal while the block runs, unless there is little to do.

    Yields a function that advances it. `total` may be an estimate.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = total < _MIN_PROGRESS or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(description, total=total)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done = min(total, done + count)
            bar.update(task, completed=done)

        yield advance
