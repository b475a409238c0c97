"""Put events on the stream, from files of JSON or JSON lines.

The events are those of Chatwoot's webhook; they are stored byte for byte.
Exit code 1: something was not a JSON object.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import msgspec

from worker.cli.context import CommandContext
from worker.cli.formatting import format_count
from worker.cli.output import print_json, progress, warn
from worker.core.cache_keys import MAX_NAME_BYTES
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings
from worker.store.stream.stream_reader import StreamProducer

_BATCH: Final = 200
_MAX_WARNINGS: Final = 10


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--instance", metavar="INSTANCE", help="state the Evolution instance of the events"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a JSON object, or one JSON object in each line; - is standard input",
    )


@dataclass
class _Report:
    published: int = 0
    last_id: str | None = None
    refused: list[str] = field(default_factory=list)


def run(arguments: Namespace, loaded: LoadedSettings) -> int:
    """Publish every event that is a JSON object; 1 when something else was among them."""
    instance = arguments.instance
    size = 1 if instance is None else len(instance.encode(errors="surrogateescape"))
    if not 1 <= size <= MAX_NAME_BYTES:
        raise ConfigurationError(f"--instance must be 1 to {MAX_NAME_BYTES} bytes long")
    report = _Report()
    events = list(_read_events(arguments.files, report))
    anyio.run(_publish, CommandContext(loaded), events, instance, report)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    return 1 if report.refused else 0


def _read_events(files: Iterable[str], report: _Report) -> Iterator[bytes]:
    for name in files:
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            report.refused.append(f"{name}: {error.strerror}")
            continue
        if _is_object(content):
            yield content.strip()
        else:
            yield from _read_lines(name, content, report)


def _read_lines(name: str, content: bytes, report: _Report) -> Iterator[bytes]:
    for number, line in enumerate(content.splitlines(), start=1):
        if _is_object(line):
            yield line.strip()
        elif line.strip():
            report.refused.append(f"{name}:{number}: not a JSON object")


def _is_object(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


async def _publish(
    context: CommandContext, events: list[bytes], instance: str | None, report: _Report
) -> None:
    fields = {} if instance is None else {"instance": instance.encode()}
    async with context.open_stream() as client:
        producer = StreamProducer(client, context.settings.stream_key)
        with progress("Publishing", len(events)) as advance:
            for start in range(0, len(events), _BATCH):
                batch = events[start : start + _BATCH]
                ids = await producer.add_all({"payload": event, **fields} for event in batch)
                report.published += len(ids)
                report.last_id = ids[-1]
                advance(len(ids))


def _print(report: _Report) -> None:
    for line in report.refused[:_MAX_WARNINGS]:
        warn(line)
    if len(report.refused) > _MAX_WARNINGS:
        warn(f"and {len(report.refused) - _MAX_WARNINGS} more like these")
    last = f", the last as {report.last_id}" if report.last_id else ""
    sys.stdout.write(f"Published {format_count(report.published, 'event')}{last}.\n")
