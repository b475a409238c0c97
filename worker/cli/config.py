"""`chatwoot-cache config`: every setting in effect, and where it came from."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.settings import DEFAULT, LoadedSettings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name for it


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    value: object
    origin: str

    @property
    def is_set(self) -> bool:
        return self.origin != DEFAULT


def add(subparsers: "Subparsers") -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "config",
        help="show every setting in effect and where it came from",
        description=(
            "Show every setting in effect and where it came from: command line, environment,"
            " a file, .env, env.yml or default. Passwords, secrets and tokens are shown as ***."
        ),
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for another program")
    parser.set_defaults(func=show)


def show(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Print the settings; returns 0, whatever the warnings are."""
    rows = [_Row(name, value, loaded.origins[name]) for name, value in loaded.masked().items()]
    if arguments.json:
        _print_json(rows, loaded.warnings)
    else:
        _print_table(rows, loaded.warnings)
    return 0


def _print_json(rows: list[_Row], warnings: tuple[str, ...]) -> None:
    settings = {row.name: {"value": row.value, "from": row.origin} for row in rows}
    json.dump({"settings": settings, "warnings": warnings}, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _print_table(rows: list[_Row], warnings: tuple[str, ...]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("  Name", no_wrap=True)
    table.add_column("Value", overflow="fold")
    table.add_column("From", overflow="fold")
    for row in rows:
        style = "bold" if row.is_set else "dim"
        table.add_row(*(Text(cell, style=style) for cell in _cells(row)))
    console.print(table)
    console.print("\n* set by you; the others are defaults", style="dim")
    for warning in warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))


def _cells(row: _Row) -> Iterator[str]:
    yield f"{'*' if row.is_set else ' '} {row.name}"
    yield _text(row.value)
    yield row.origin


def _text(value: object) -> str:
    if value is None or value == {}:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
