"""Show the state of stream, workers, cache and spool.

Shows lag, pending entries by consumer, rates, dead letters, the size of the cache and the last
event of each instance. Rates are measured over one second.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Final

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli.context import CommandContext
from worker.cli.output import print_json
from worker.cli.status_report import StatusCollector, StatusReport
from worker.cli.status_view import render_status
from worker.errors import ConfigurationError, RedisUnavailable
from worker.settings import LoadedSettings

_RATE_S: Final = 1.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="S", help="seconds between updates (default 2)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with --watch one line for each update"
    )


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Show the status, once or until Ctrl-C, which is a regular end of --watch."""
    if not arguments.every >= 0.1:  # noqa: PLR2004  (also refuses NaN)
        raise ConfigurationError("--every must be 0.1 or more")
    try:
        anyio.run(_watch if arguments.watch else _show, CommandContext(loaded), arguments)
    except KeyboardInterrupt:
        if not arguments.watch:
            raise
    return 0


async def _show(context: CommandContext, arguments: Namespace) -> None:
    async with aclosing(_reports(context, _RATE_S)) as reports:
        report = await anext(reports)
    if arguments.json:
        print_json(asdict(report))
    else:
        Console(highlight=False).print(render_status(report, context.settings))


async def _watch(context: CommandContext, arguments: Namespace) -> None:
    console = Console(highlight=False)
    if arguments.json or not console.is_terminal:
        async for state in _states(context, arguments.every):
            if isinstance(state, StatusReport) and arguments.json:
                print_json(asdict(state))
            else:
                console.print(_render(state, context))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for state in _states(context, arguments.every):
            live.update(_render(state, context), refresh=True)


async def _states(
    context: CommandContext, every_s: float
) -> AsyncIterator[StatusReport | RedisUnavailable]:
    """Yield a report in every period, or the error while Redis is unavailable."""
    while True:
        try:
            async for report in _reports(context, every_s):
                yield report
        except RedisUnavailable as error:
            yield error
            await anyio.sleep(every_s)


async def _reports(context: CommandContext, every_s: float) -> AsyncGenerator[StatusReport, None]:
    async with context.open_stream() as stream, context.open_cache() as cache:
        collector = StatusCollector(context.settings, stream, cache)
        await collector.sample()
        await anyio.sleep(min(_RATE_S, every_s))
        while True:
            yield await collector.report()
            await anyio.sleep(every_s)


def _render(state: StatusReport | RedisUnavailable, context: CommandContext) -> Group | Text:
    if isinstance(state, StatusReport):
        return render_status(state, context.settings)
    return Text(f"Redis does not answer ({state.kind}): {state}", style="bold red")
