"""`status`: how stream, workers, cache and spool stand, on one screen."""

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Final

import anyio
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli.status_report import StatusCollector, StatusReport
from worker.cli.status_view import render_status
from worker.errors import ConfigurationError, RedisUnavailable
from worker.settings import LoadedSettings
from worker.store.client import open_client

_LOOK_S: Final = 1.0


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "status",
        help="show how stream, workers, cache and spool stand",
        description="Show lag, what is pending and with whom, rates, dead letters, the cache's "
        "size and the last event of each instance. Rates are measured for a second.",
    )
    parser.add_argument("--watch", action="store_true", help="look again and again, until Ctrl-C")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="S", help="seconds between two looks (2)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with --watch one line for each look"
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Show the status, once or until Ctrl-C, which is no failure then."""
    if not arguments.every >= 0.1:  # noqa: PLR2004  (also refuses NaN)
        raise ConfigurationError("--every must be 0.1 or more")
    try:
        anyio.run(_watch if arguments.watch else _once, loaded, arguments)
    except KeyboardInterrupt:
        if not arguments.watch:
            raise
    return 0


async def _once(loaded: LoadedSettings, arguments: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        observer = await _observer(loaded, stack)
        await observer.sample()
        await anyio.sleep(_LOOK_S)
        overview = await observer.report()
    if arguments.json:
        _print_json(overview)
    else:
        Console(highlight=False).print(render_status(overview, loaded.settings))


async def _watch(loaded: LoadedSettings, arguments: argparse.Namespace) -> None:
    console = Console(highlight=False)
    if arguments.json or not console.is_terminal:
        async for seen in _looks(loaded, arguments.every):
            if isinstance(seen, StatusReport) and arguments.json:
                _print_json(seen)
            else:
                console.print(_shown(seen, loaded))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for seen in _looks(loaded, arguments.every):
            live.update(_shown(seen, loaded), refresh=True)


async def _looks(
    loaded: LoadedSettings, every_s: float
) -> AsyncIterator[StatusReport | RedisUnavailable]:
    """Look in every period; while Redis is away, say so instead, and go on."""
    while True:
        try:
            async with AsyncExitStack() as stack:
                observer = await _observer(loaded, stack)
                await observer.sample()
                await anyio.sleep(min(_LOOK_S, every_s))
                while True:
                    yield await observer.report()
                    await anyio.sleep(every_s)
        except RedisUnavailable as error:
            yield error
            await anyio.sleep(every_s)


async def _observer(loaded: LoadedSettings, stack: AsyncExitStack) -> StatusCollector:
    settings = loaded.settings
    stream = await stack.enter_async_context(open_client(settings.stream_uri.get_secret_value()))
    cache = await stack.enter_async_context(open_client(settings.cache_uri.get_secret_value()))
    return StatusCollector(settings, stream, cache)


def _print_json(overview: StatusReport) -> None:
    sys.stdout.write(msgspec.json.encode(asdict(overview)).decode() + "\n")
    sys.stdout.flush()


def _shown(seen: StatusReport | RedisUnavailable, loaded: LoadedSettings) -> Group | Text:
    if isinstance(seen, StatusReport):
        return render_status(seen, loaded.settings)
    return Text(f"Redis does not answer ({seen.kind}): {seen}", style="bold red")
