"""The one screen of `status`: an overview, laid out for a person."""

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from worker.cli.formatting import format_age, format_bytes, format_seconds
from worker.cli.status_report import (
    ConsumerStatus,
    InstanceStatus,
    StatusReport,
    StreamRates,
    StreamStatus,
)
from worker.ingest.spool.spool_database import SpoolStats
from worker.settings import Settings
from worker.store.admin.stream_info import NEWEST, DeadLetterInfo

_ACTIVE_S: Final = 5.0
_NAME_CHARS: Final = 36
_MOST_ROWS: Final = 20


def render_status(overview: StatusReport, settings: Settings) -> Group:
    """Return what fits on a terminal of 80 columns."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(overview.at)))
    facts.add_row("Stream", Text(f"{settings.stream_key}: {_stream(overview.stream)}"))
    facts.add_row("Group", Text(f"{settings.stream_group}: {_group(overview.stream)}"))
    facts.add_row("Rates", _rates(overview.rates))
    facts.add_row("Dead", _dead(overview.dead))
    facts.add_row("Spool", _spool(overview.spool, settings.webhook_spool_max_bytes))
    return Group(facts, *_tables(overview))


def _tables(overview: StatusReport) -> Iterator[Text | Table]:
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


def _stream(stream: StreamStatus | None) -> str:
    if stream is None:
        return "not there yet"
    if stream.last_entry_s is None:
        return "empty"
    return f"{stream.length:,} entries, the last {format_age(stream.last_entry_s)}"


def _group(stream: StreamStatus | None) -> str:
    if stream is None or stream.position is None:
        return "not there yet; a worker makes it"
    lag = "lag unknown" if stream.lag is None else f"{stream.lag:,} to read"
    pending = f"{stream.pending:,} pending"
    if stream.oldest_pending_s is not None:
        pending += f", the oldest {format_seconds(stream.oldest_pending_s)} old"
    return f"{lag}; {pending}; at {stream.position}"


def _rates(rates: StreamRates | None) -> str:
    if rates is None:
        return "unknown"
    read = "unknown" if rates.read_per_s is None else f"{rates.read_per_s:,.0f}/s"
    return f"{rates.added_per_s:,.0f}/s added, {read} read"


def _dead(dead: DeadLetterInfo) -> Text:
    if not dead.total:
        return Text("none")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dead.by_reason.items())
    of_them = f" of the newest {dead.looked_at:,}" if dead.looked_at < dead.total else ""
    return Text(f"{dead.total:,}: {reasons}{of_them}", style="yellow")


def _spool(spool: SpoolStats | None, max_bytes: int) -> Text:
    if spool is None:
        return Text("not set: webhooks are refused while Redis is away")
    if not spool.entries:
        return Text("empty")
    waiting = f"{spool.entries:,} webhooks wait, {format_bytes(spool.used_bytes)}"
    if spool.is_full(max_bytes):
        return Text(f"full: {waiting}; others are refused", style="bold red")
    return Text(waiting, style="yellow")


def _consumers(consumers: tuple[ConsumerStatus, ...]) -> Table:
    table = _table("Consumer", "Pending", "Oldest", "Last active")
    for consumer in consumers[:_MOST_ROWS]:
        active = consumer.idle_s < _ACTIVE_S
        table.add_row(
            _name(consumer.name),
            f"{consumer.pending:,}",
            "" if consumer.oldest_pending_s is None else format_seconds(consumer.oldest_pending_s),
            "now" if active else format_age(consumer.idle_s),
            style=None if active else "yellow",
        )
    return table


def _instances(instances: tuple[InstanceStatus, ...]) -> Table:
    table = _table("Instance", "Messages", "Conversations", "Last event")
    for instance in instances[:_MOST_ROWS]:
        last = instance.last_event_s
        table.add_row(
            _name(instance.name),
            f"{instance.messages:,}",
            f"{instance.conversations:,}",
            "not lately" if last is None else format_age(last),
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
