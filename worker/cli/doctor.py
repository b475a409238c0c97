"""Look for what is wrong, and say what to do about it.

Examines settings, servers, stream, cache and spool; changes nothing. Exit code 1: there is a
problem. Exit code 3: Redis does not answer.
"""

import sys
from argparse import ArgumentParser, Namespace
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
from worker.cli.checks.check_result import CheckResult, Level, ok, problem, unknown
from worker.cli.context import CheckContext, is_in_container
from worker.cli.formatting import format_count
from worker.embedded.embedded_server import SCHEME
from worker.errors import ConfigurationError, PermissionDenied, RedisUnavailable, WorkerError
from worker.settings import LoadedSettings, RedisUri, redis_uri
from worker.store.admin.server_probe import GONE
from worker.store.client import create_client, open_client

_FOUND_PROBLEM: Final = 1
_REDIS_UNAVAILABLE: Final = 3

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
    "unknown": ("?", "dim"),
}


class _Row(NamedTuple):
    check: str
    result: CheckResult


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Run and print every check; 1 for a problem, 3 when Redis does not answer."""
    rows, is_unavailable = anyio.run(_run_checks, loaded)
    if arguments.json:
        results = [{"check": row.check, **asdict(row.result)} for row in rows]
        encoded = msgspec.json.format(msgspec.json.encode(results), indent=2)
        sys.stdout.write(encoded.decode() + "\n")
    else:
        _print(rows)
    if is_unavailable:
        return _REDIS_UNAVAILABLE
    return _FOUND_PROBLEM if any(row.result.level == "problem" for row in rows) else 0


async def _run_checks(loaded: LoadedSettings) -> tuple[list[_Row], bool]:
    """Return the results, and whether a server was unavailable or became so."""
    rows: list[_Row] = []
    is_unavailable = False
    await _run_each(checks.LOCAL, CheckContext(loaded, client=None, blocking=None), "", rows)
    for label, uri, of_server in _servers(loaded):
        try:
            await _check_server(loaded, uri, of_server, label, rows)
        except RedisUnavailable as error:
            is_unavailable = True
            rows.append(_Row(f"{label}reachable", _unavailable(uri, error)))
        except WorkerError as error:
            rows.append(_Row(f"{label}reachable", problem(str(error), "see CACHE_REDIS_URI")))
    return rows, is_unavailable


def _servers(loaded: LoadedSettings) -> list[tuple[str, RedisUri, Mapping[str, Check]]]:
    """Return each server once, with its checks."""
    cache, stream = loaded.settings.cache_uri, loaded.settings.stream_uri
    if redis_uri.server(cache.get_secret_value()) == redis_uri.server(stream.get_secret_value()):
        return [("", stream, {**checks.SERVER, **checks.STREAM, **checks.CACHE})]
    return [
        ("stream: ", stream, {**checks.SERVER, **checks.STREAM}),
        ("cache: ", cache, {**checks.SERVER, **checks.CACHE}),
    ]


async def _check_server(
    loaded: LoadedSettings,
    uri: RedisUri,
    of_server: Mapping[str, Check],
    label: str,
    rows: list[_Row],
) -> None:
    address, block_s = uri.get_secret_value(), loaded.settings.stream_block_s
    async with open_client(address) as client, create_client(address, block_s=block_s) as blocking:
        context = CheckContext(loaded, client, blocking)
        took_s = await context.probe.round_trip_s()
        rows.append(_Row(f"{label}reachable", ok(f"{uri} answers in {1000 * took_s:.1f} ms")))
        await _run_each(of_server, context, label, rows)


async def _run_each(
    named: Mapping[str, Check], context: CheckContext, label: str, rows: list[_Row]
) -> None:
    for name, check in named.items():
        rows.append(_Row(label + name, await _run_check(check, context)))


async def _run_check(check: Check, context: CheckContext) -> CheckResult:
    try:
        return await check(context)
    except PermissionDenied as error:
        return unknown(f"the server refuses to tell: {error.__cause__}")
    except ConfigurationError as error:
        return problem(str(error), "`chatwoot-cache config` shows where the setting comes from")
    except RedisUnavailable as error:
        if error.kind in GONE:
            raise
        return unknown(f"the server could not tell: {error}")


def _unavailable(uri: RedisUri, error: RedisUnavailable) -> CheckResult:
    address = uri.get_secret_value()
    if address.startswith(SCHEME):
        advice = "the embedded server runs only while the worker runs"
    elif "localhost" in (redis_uri.server(address) or ()) and is_in_container():
        advice = (
            "inside a container localhost is the container itself: name the service, "
            "as in redis://redis:6379/0, or host.docker.internal for the host"
        )
    else:
        advice = "check that the server runs, and that host and port in the URI are right"
    return problem(f"{uri} does not answer ({error.kind}): {error}", advice)


def _print(rows: list[_Row]) -> None:
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check, result in rows:
        mark, style = _MARKS[result.level]
        table.add_row(Text(mark, style=style), check, Text(result.says))
        if result.advice:
            table.add_row("", "", Text(f"→ {result.advice}", style="cyan"))
    console.print(table)
    console.print(f"\n{_summarize([row.result.level for row in rows])}")


def _summarize(levels: list[Level]) -> str:
    problems, warnings = levels.count("problem"), levels.count("warning")
    if not problems and not warnings:
        return "Everything is fine."
    counts = f"{format_count(problems, 'problem')}, {format_count(warnings, 'warning')}."
    return counts.replace("0 ", "No ", 1) if not problems else counts.replace(" 0 ", " no ")
