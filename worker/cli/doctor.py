"""`doctor`: says in plain words what is wrong, and what to do about it."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, NamedTuple

import anyio
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cli import checks
from worker.cli.checks import Check
from worker.cli.checks.check_context import CheckContext, in_container
from worker.cli.checks.check_result import CheckResult, Level, ok, problem, unknown
from worker.embedded.embedded_server import SCHEME
from worker.errors import ConfigurationError, PermissionRefused, RedisUnavailable, WorkerError
from worker.settings import LoadedSettings, RedisUri, redis_uri
from worker.store.admin.server_probe import GONE
from worker.store.client import create_client, open_client

_FOUND_SOMETHING: Final = 1
_REDIS_UNAVAILABLE: Final = 3

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
    "unknown": ("?", "dim"),
}


class _Row(NamedTuple):
    check: str
    finding: CheckResult


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="look for what is wrong, and say what to do about it",
        description="Look at settings, servers, stream, cache and spool; changes nothing. "
        "Exit code 1: there is a problem. Exit code 3: Redis does not answer.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for another program")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Look at everything and print it; 1 for a problem, 3 when Redis does not answer."""
    rows, is_away = anyio.run(_examine, loaded)
    if arguments.json:
        _print_json(rows)
    else:
        _print(rows)
    if is_away:
        return _REDIS_UNAVAILABLE
    return _FOUND_SOMETHING if any(row.finding.level == "problem" for row in rows) else 0


async def _examine(loaded: LoadedSettings) -> tuple[list[_Row], bool]:
    """Return what was found, whole or up to where Redis went, and whether it did."""
    rows: list[_Row] = []
    is_away = False
    await _try(checks.HERE, CheckContext(loaded, os.environ, client=None, blocking=None), "", rows)
    for label, uri, what in _servers(loaded):
        try:
            await _visit(loaded, uri, what, label, rows)
        except RedisUnavailable as error:
            is_away = True
            rows.append(_Row(f"{label}reachable", _away(uri, error)))
        except WorkerError as error:
            rows.append(_Row(f"{label}reachable", problem(str(error), "see CACHE_REDIS_URI")))
    return rows, is_away


def _servers(loaded: LoadedSettings) -> list[tuple[str, RedisUri, Mapping[str, Check]]]:
    """Return each server once, with what is to be looked at there."""
    cache, stream = loaded.settings.cache_uri, loaded.settings.stream_uri
    if redis_uri.server(cache.get_secret_value()) == redis_uri.server(stream.get_secret_value()):
        return [("", stream, {**checks.SERVER, **checks.STREAM, **checks.CACHE})]
    return [
        ("stream: ", stream, {**checks.SERVER, **checks.STREAM}),
        ("cache: ", cache, {**checks.SERVER, **checks.CACHE}),
    ]


async def _visit(
    loaded: LoadedSettings, uri: RedisUri, what: Mapping[str, Check], label: str, rows: list[_Row]
) -> None:
    address, block_s = uri.get_secret_value(), loaded.settings.stream_block_s
    async with open_client(address) as client, create_client(address, block_s=block_s) as blocking:
        subject = CheckContext(loaded, os.environ, client, blocking)
        took_s = await subject.survey.round_trip_s()
        rows.append(_Row(f"{label}reachable", ok(f"{uri} answers in {1000 * took_s:.1f} ms")))
        await _try(what, subject, label, rows)


async def _try(
    what: Mapping[str, Check], subject: CheckContext, label: str, rows: list[_Row]
) -> None:
    for name, check in what.items():
        rows.append(_Row(label + name, await _checked(check, subject)))


async def _checked(check: Check, subject: CheckContext) -> CheckResult:
    try:
        return await check(subject)
    except PermissionRefused as error:
        return unknown(f"the server does not tell: {error.__cause__}")
    except ConfigurationError as error:
        return problem(str(error), "`chatwoot-cache config` shows where the setting comes from")
    except RedisUnavailable as error:
        if error.kind in GONE:
            raise
        return unknown(f"the server does not tell: {error}")


def _away(uri: RedisUri, error: RedisUnavailable) -> CheckResult:
    address = uri.get_secret_value()
    place = redis_uri.server(address) or ()
    if address.startswith(SCHEME):
        advice = "it runs as long as the worker does"
    elif "localhost" in place and in_container(os.environ):
        advice = (
            "inside a container localhost is the container itself: name the service, "
            "as in redis://redis:6379/0, or host.docker.internal for the host"
        )
    else:
        advice = "see that the server runs, and that host and port in the URI are right"
    return problem(f"{uri} does not answer ({error.kind}): {error}", advice)


def _print_json(rows: list[_Row]) -> None:
    found = [{"check": row.check, **asdict(row.finding)} for row in rows]
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")


def _print(rows: list[_Row]) -> None:
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check, finding in rows:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), check, Text(finding.says))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", style="cyan"))
    console.print(table)
    console.print(f"\n{_summary(rows)}")


def _summary(rows: list[_Row]) -> str:
    levels = [row.finding.level for row in rows]
    problems, warnings = levels.count("problem"), levels.count("warning")
    if not problems and not warnings:
        return "All is well."
    return f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


def _counted(number: int, noun: str) -> str:
    return f"{number or 'No'} {noun}{'' if number == 1 else 's'}"
