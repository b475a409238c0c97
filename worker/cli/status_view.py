"""Lays out a status report on one screen."""

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from worker.cli.formatting import format_age, format_bytes, format_count, format_seconds
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
_MAX_ROWS: Final = 20


def render_status(report: StatusReport, settings: Settings) -> Group:
    """Return the report for a terminal of 80 columns or more."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("Time", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.at)))
    facts.add_row("Stream", Text(f"{settings.stream_key}: {_stream(report.stream)}"))
    facts.add_row("Group", Text(f"{settings.stream_group}: {_group(report.stream)}"))
    facts.add_row("Rates", _rates(report.rates))
    facts.add_row("Dead", _dead_letters(report.dead))
    facts.add_row("Spool", _spool(report.spool, settings.webhook_spool_max_bytes))
    return Group(facts, *_tables(report))


def _tables(report: StatusReport) -> Iterator[Text | Table]:
    if report.consumers:
        yield Text()
        yield _consumers(report.consumers)
    yield Text()
    if not report.instances:
        yield Text("The cache is empty.")
        return
    yield _instances(report.instances)
    more = len(report.instances) - _MAX_ROWS
    if more > 0:
        yield Text(f"… and {more} more; --json shows all", style="dim")
    if any(instance.last_event_s is None for instance in report.instances):
        yield Text(f"Not recently: not among the newest {NEWEST:,} entries.", style="dim")
    if report.instances_estimated:
        yield Text("Estimated from a part of the keys.", style="dim")


def _stream(stream: StreamStatus | None) -> str:
    if stream is None:
        return "does not exist yet"
    if stream.last_entry_s is None:
        return "empty"
    entries = format_count(stream.length, "entry", "entries")
    return f"{entries}, the last {format_age(stream.last_entry_s)}"


def _group(stream: StreamStatus | None) -> str:
    if stream is None or stream.position is None:
        return "does not exist yet; a worker creates it"
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


def _dead_letters(dead: DeadLetterInfo) -> Text:
    if not dead.total:
        return Text("none")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dead.by_reason.items())
    newest = f" of the newest {dead.looked_at:,}" if dead.looked_at < dead.total else ""
    return Text(f"{dead.total:,}: {reasons}{newest}", style="yellow")


def _spool(spool: SpoolStats | None, max_bytes: int) -> Text:
    if spool is None:
        return Text("not set: webhooks are refused while Redis is unavailable")
    if not spool.entries:
        return Text("empty")
    waiting = f"{format_count(spool.entries, 'webhook')}, {format_bytes(spool.used_bytes)}"
    if spool.is_full(max_bytes):
        return Text(f"full: {waiting}; others are refused", style="bold red")
    return Text(f"{waiting}, waiting for Redis", style="yellow")


def _consumers(consumers: tuple[ConsumerStatus, ...]) -> Table:
    table = _table("Consumer", "Pending", "Oldest", "Last active")
    for consumer in consumers[:_MAX_ROWS]:
        is_active = consumer.idle_s < _ACTIVE_S
        oldest_s = consumer.oldest_pending_s
        table.add_row(
            _name(consumer.name),
            f"{consumer.pending:,}",
            "" if oldest_s is None else format_seconds(oldest_s),
            "now" if is_active else format_age(consumer.idle_s),
            style=None if is_active else "yellow",
        )
    return table


def _instances(instances: tuple[InstanceStatus, ...]) -> Table:
    table = _table("Instance", "Messages", "Conversations", "Last event")
    for instance in instances[:_MAX_ROWS]:
        last_s = instance.last_event_s
        table.add_row(
            _name(instance.name),
            f"{instance.messages:,}",
            f"{instance.conversations:,}",
            "not recently" if last_s is None else format_age(last_s),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _name(name: str) -> Text:
    shown = "".join(character if character.isprintable() else "?" for character in name)
    return Text(shown if len(shown) <= _NAME_CHARS else f"{shown[: _NAME_CHARS - 1]}…")
