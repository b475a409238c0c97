"""Show every setting in effect and where it came from.

The origin is the command line, the environment, a file, .env, env.yml or the default.
Passwords, secrets and tokens are shown as ***.
"""

import json
import sys
from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.settings import DEFAULT, LoadedSettings


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Print the settings; returns 0, whatever the warnings are."""
    if arguments.json:
        settings = {
            name: {"value": value, "from": loaded.origins[name]}
            for name, value in loaded.masked().items()
        }
        json.dump({"settings": settings, "warnings": loaded.warnings}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print_table(loaded)
    return 0


def _print_table(loaded: LoadedSettings) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("  Name", no_wrap=True)
    table.add_column("Value", overflow="fold")
    table.add_column("From", overflow="fold")
    for name, value in loaded.masked().items():
        origin = loaded.origins[name]
        mark, style = (" ", "dim") if origin == DEFAULT else ("*", "bold")
        cells = (f"{mark} {name}", _format_value(value), origin)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(table)
    console.print("\n* set by you; the others are defaults", style="dim")
    for warning in loaded.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))


def _format_value(value: object) -> str:
    if value is None or value == {}:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
