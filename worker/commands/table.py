"""Rows for a person or a program: a table on a terminal, tabs elsewhere, JSON lines when asked."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows; as JSON each is a line with all its members."""
    if as_json:
        for row in rows:
            sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
        return
    console = Console()
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(visible(row[name]) for name in columns) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(visible(row[name]), overflow="fold") for name in columns))
    console.print(table)


def visible(value: object) -> str:
    """Write a value so that nothing in it is invisible, or moves the cursor."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
