"""`status`: how stream, workers, cache and spool stand, on one screen."""

import argparse
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Final

import anyio
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.commands.overview import Holder, Instance, Observer, Overview, Position, Rates
from worker.commands.quantities import ago, of_bytes, of_seconds
from worker.errors import Misconfigured, Unavailable
from worker.settings import Loaded
from worker.store.census import NEWEST, Letters
from worker.store.connect import joined
from worker.store.spoolfile import SpoolFigures

_LOOK_S: Final = 1.0
_ACTIVE_S: Final = 5.0
_NAME_CHARS: Final = 36
_MOST_ROWS: Final = 20


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


def run(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Show the status, once or until Ctrl-C, which is no failure then."""
    if not arguments.every >= 0.1:  # noqa: PLR2004  (also refuses NaN)
        raise Misconfigured("--every must be 0.1 or more")
    try:
        anyio.run(_watch if arguments.watch else _once, loaded, arguments)
    except KeyboardInterrupt:
        if not arguments.watch:
            raise
    return 0


async def _once(loaded: Loaded, arguments: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        observer = await _observer(loaded, stack)
        await observer.glance()
        await anyio.sleep(_LOOK_S)
        overview = await observer.look()
    if arguments.json:
        _print_json(overview)
    else:
        Console(highlight=False).print(_screen(overview, loaded))


async def _watch(loaded: Loaded, arguments: argparse.Namespace) -> None:
    console = Console(highlight=False)
    if arguments.json or not console.is_terminal:
        async for seen in _looks(loaded, arguments.every):
            if isinstance(seen, Overview) and arguments.json:
                _print_json(seen)
            else:
                console.print(_shown(seen, loaded))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        async for seen in _looks(loaded, arguments.every):
            live.update(_shown(seen, loaded), refresh=True)


async def _looks(loaded: Loaded, every_s: float) -> AsyncIterator[Overview | Unavailable]:
    """Look in every period; while Redis is away, say so instead, and go on."""
    while True:
        try:
            async with AsyncExitStack() as stack:
                observer = await _observer(loaded, stack)
                await observer.glance()
                await anyio.sleep(min(_LOOK_S, every_s))
                while True:
                    yield await observer.look()
                    await anyio.sleep(every_s)
        except Unavailable as error:
            yield error
            await anyio.sleep(every_s)


async def _observer(loaded: Loaded, stack: AsyncExitStack) -> Observer:
    settings = loaded.settings
    stream = await stack.enter_async_context(joined(settings.stream_uri.get_secret_value()))
    cache = await stack.enter_async_context(joined(settings.cache_uri.get_secret_value()))
    return Observer(settings, stream, cache)


def _print_json(overview: Overview) -> None:
    sys.stdout.write(msgspec.json.encode(asdict(overview)).decode() + "\n")
    sys.stdout.flush()


def _shown(seen: Overview | Unavailable, loaded: Loaded) -> Group | Text:
    if isinstance(seen, Overview):
        return _screen(seen, loaded)
    return Text(f"Redis does not answer ({seen.kind}): {seen}", style="bold red")


def _screen(overview: Overview, loaded: Loaded) -> Group:
    settings = loaded.settings
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(overview.at)))
    facts.add_row("Stream", Text(f"{settings.stream_key}: {_stream(overview.stream)}"))
    facts.add_row("Group", Text(f"{settings.stream_group}: {_group(overview.stream)}"))
    facts.add_row("Rates", _rates(overview.rates))
    facts.add_row("Dead", _dead(overview.dead))
    facts.add_row("Spool", _spool(overview.spool))
    return Group(facts, *_tables(overview))


def _tables(overview: Overview) -> Iterator[Text | Table]:
    if overview.consumers:
        yield Text()
        yield _consumers(overview.consumers)
    yield Text()
    if not overview.instances:
        yield Text("The cache is empty.")
        return
    yield _instances(overview.instances)
    left = len(overview.instances) - _MOST_ROWS
    if left > 0:
        yield Text(f"… and {left} more; --json shows all", style="dim")
    if any(instance.last_event_s is None for instance in overview.instances):
        yield Text(f"Not lately: not among the newest {NEWEST:,} entries.", style="dim")
    if overview.instances_estimated:
        yield Text("Estimated from a part of the keys.", style="dim")


def _stream(stream: Position | None) -> str:
    if stream is None:
        return "not there yet"
    if stream.last_entry_s is None:
        return "empty"
    return f"{stream.length:,} entries, the last {ago(stream.last_entry_s)}"


def _group(stream: Position | None) -> str:
    if stream is None or stream.position is None:
        return "not there yet; a worker makes it"
    lag = "lag unknown" if stream.lag is None else f"{stream.lag:,} to read"
    pending = f"{stream.pending:,} pending"
    if stream.oldest_pending_s is not None:
        pending += f", the oldest {of_seconds(stream.oldest_pending_s)} old"
    return f"{lag}; {pending}; at {stream.position}"


def _rates(rates: Rates | None) -> str:
    if rates is None:
        return "unknown"
    read = "unknown" if rates.read_per_s is None else f"{rates.read_per_s:,.0f}/s"
    return f"{rates.added_per_s:,.0f}/s added, {read} read"


def _dead(dead: Letters) -> Text:
    if not dead.total:
        return Text("none")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dead.by_reason.items())
    of_them = f" of the newest {dead.looked_at:,}" if dead.looked_at < dead.total else ""
    return Text(f"{dead.total:,}: {reasons}{of_them}", style="yellow")


def _spool(spool: SpoolFigures | None) -> Text:
    if spool is None:
        return Text("not set: webhooks are refused while Redis is away")
    if not spool.entries:
        return Text("empty")
    return Text(f"{spool.entries:,} webhooks wait, {of_bytes(spool.used_bytes)}", style="yellow")


def _consumers(consumers: tuple[Holder, ...]) -> Table:
    table = _table("Consumer", "Pending", "Oldest", "Last active")
    for consumer in consumers[:_MOST_ROWS]:
        active = consumer.idle_s < _ACTIVE_S
        table.add_row(
            _name(consumer.name),
            f"{consumer.pending:,}",
            "" if consumer.oldest_pending_s is None else of_seconds(consumer.oldest_pending_s),
            "now" if active else ago(consumer.idle_s),
            style=None if active else "yellow",
        )
    return table


def _instances(instances: tuple[Instance, ...]) -> Table:
    table = _table("Instance", "Messages", "Conversations", "Last event")
    for instance in instances[:_MOST_ROWS]:
        last = instance.last_event_s
        table.add_row(
            _name(instance.name),
            f"{instance.messages:,}",
            f"{instance.conversations:,}",
            "not lately" if last is None else ago(last),
        )
    return table


def _table(name: str, *figures: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _name(name: str) -> Text:
    shown = "".join(character if character.isprintable() else "?" for character in name)
    return Text(shown if len(shown) <= _NAME_CHARS else f"{shown[: _NAME_CHARS - 1]}…")
