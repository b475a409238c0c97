"""`publish`: put webhook bodies on the stream, from files or from standard input."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import msgspec
from rich.console import Console
from rich.progress import track

from worker.cli.formatting import format_count
from worker.core.cache_keys import MAX_NAME_BYTES
from worker.errors import ConfigurationError
from worker.settings import LoadedSettings
from worker.store.client import open_client
from worker.store.stream.stream_reader import StreamProducer

_AT_ONCE: Final = 200
_SHOWN: Final = 10
"""Refusals that are told; a wrong file has as many as lines."""


def add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "publish",
        help="put events on the stream, from files of JSON or JSON lines",
        description="Put Chatwoot events on the stream, byte for byte as the files hold them.",
    )
    parser.add_argument(
        "--instance", metavar="I", help="state the Evolution instance of the events"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a JSON object, or one JSON object in each line; - is standard input",
    )
    parser.set_defaults(func=run)


@dataclass
class _Report:
    """What was published, and what was not and why."""

    published: int = 0
    last_id: str | None = None
    refused: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace, loaded: LoadedSettings) -> int:
    """Publish every event that is a JSON object; 1 when something was not one."""
    if arguments.instance is not None:
        _check_instance(arguments.instance)
    report = _Report()
    events = list(_events(arguments.files, report))
    anyio.run(_publish, events, arguments.instance, loaded, report)
    _print(report, as_json=arguments.json)
    return 1 if report.refused else 0


def _check_instance(instance: str) -> None:
    if not 1 <= len(instance.encode(errors="surrogateescape")) <= MAX_NAME_BYTES:
        raise ConfigurationError(f"--instance must be 1 to {MAX_NAME_BYTES} bytes long")


def _events(files: Iterable[str], report: _Report) -> Iterator[bytes]:
    for name in files:
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            report.refused.append(f"{name}: {error.strerror}")
            continue
        yield from _events_of(name, content, report)


def _events_of(name: str, content: bytes, report: _Report) -> Iterator[bytes]:
    """Yield a file that is one object whole, else each of its lines that is one."""
    if _is_object(content):
        yield content.strip()
        return
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
    events: list[bytes], instance: str | None, loaded: LoadedSettings, report: _Report
) -> None:
    settings = loaded.settings
    stated = {} if instance is None else {"instance": instance.encode()}
    async with open_client(settings.stream_uri.get_secret_value()) as client:
        producer = StreamProducer(client, settings.stream_key)
        chunks = [events[start : start + _AT_ONCE] for start in range(0, len(events), _AT_ONCE)]
        console = Console(stderr=True)
        hidden = not console.is_terminal or len(chunks) == 1
        for chunk in track(chunks, "Publishing", console=console, disable=hidden, transient=True):
            ids = await producer.add_all({"payload": event, **stated} for event in chunk)
            report.published += len(ids)
            report.last_id = ids[-1]


def _print(report: _Report, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return
    for line in report.refused[:_SHOWN]:
        sys.stderr.write(f"chatwoot-cache: {line}\n")
    if len(report.refused) > _SHOWN:
        sys.stderr.write(f"chatwoot-cache: and {len(report.refused) - _SHOWN} more like these\n")
    last = f", the last as {report.last_id}" if report.last_id else ""
    sys.stdout.write(f"Published {format_count(report.published, 'event')}{last}.\n")
