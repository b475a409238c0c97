"""Rows for a person or a program: a table on a terminal, tabs elsewhere, JSON lines when asked."""

import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 120


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    spare: Container[str] = (),
) -> None:
    """Print rows; as JSON each is a line with all its members.

    The first column is what one copies, and stays in one piece; the spare ones are left out of
    a terminal that is narrow.
    """
    if as_json:
        for row in rows:
            sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
        return
    console = Console()
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(printable(row[name]) for name in columns) + "\n")
        return
    shown = [name for name in columns if name not in spare or console.width >= _WIDE]
    table = Table(*shown, box=None, header_style="bold")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(printable(row[name]), overflow="fold") for name in shown))
    console.print(table)


def printable(value: object) -> str:
    """Write a value so that nothing in it is invisible, or moves the cursor."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
