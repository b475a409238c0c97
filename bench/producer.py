"""A producer at a steady pace: `python -m bench.producer {xadd|http} ADDRESS PREFIX RATE COUNT`.

Prints, for each event, its document's key, when it was sent, and when that was answered:
nanoseconds of the machine's monotonic clock, which is the same for every process.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import redis
import uvloop

from bench.events import bodies
from bench.workload import STREAM
from worker.core.cache_keys import CacheKeys

CONNECTIONS: Final = 16
"""Kept open, as a proxy in front of us would keep them."""

_S: Final = 1_000_000_000


class Sent(NamedTuple):
    """An event that was taken, by its document's key."""

    key: str
    sent_ns: int
    answered_ns: int


class _Inbox(msgspec.Struct):
    name: str


class _Head(msgspec.Struct):
    id: int
    inbox: _Inbox


def keyed(prefix: str, count: int) -> list[tuple[str, bytes]]:
    """Return events with the keys under which their messages will be readable."""
    keys, decoder = CacheKeys(prefix), msgspec.json.Decoder(_Head)
    heads = ((decoder.decode(body), body) for body in bodies(count))
    return [(keys.message(head.inbox.name, head.id), body) for head, body in heads]


def due(rate: int, count: int) -> Iterator[int]:
    """Return when each event is to be sent; one that is late does not delay those behind it."""
    begun = time.monotonic_ns()
    return (begun + number * _S // rate for number in range(count))


def by_xadd(uri: str, events: Sequence[tuple[str, bytes]], rate: int) -> list[Sent]:
    """Add to the stream directly, one after the other."""
    found = []
    with redis.Redis.from_url(uri) as client:
        client.ping()
        for (key, body), at_ns in zip(events, due(rate, len(events)), strict=True):
            time.sleep(max(0, at_ns - time.monotonic_ns()) / _S)
            sent_ns = time.monotonic_ns()
            client.execute_command("XADD", STREAM, "*", "payload", body)
            found.append(Sent(key, sent_ns, time.monotonic_ns()))
    return found


async def by_http(url: str, events: Sequence[tuple[str, bytes]], rate: int) -> list[Sent]:
    """Post to the webhook, over a few connections."""
    found: list[Sent] = []
    waiting = zip(events, due(rate, len(events)), strict=True)
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_post_all(url, waiting, found))
    return found


async def _post_all(
    url: str, waiting: Iterator[tuple[tuple[str, bytes], int]], found: list[Sent]
) -> None:
    """Take the next event, wait until it is due, post it, and begin anew."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for (key, body), at_ns in waiting:
        await asyncio.sleep(max(0, at_ns - time.monotonic_ns()) / _S)
        head = (
            f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sent_ns = time.monotonic_ns()
        writer.write(head.encode() + body)
        status = await _answer(reader)
        if status != 200:  # noqa: PLR2004 - OK
            raise SystemExit(f"the webhook answered {status}")
        found.append(Sent(key, sent_ns, time.monotonic_ns()))
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; returns its status."""
    status, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    lengths = [field.partition(b":")[2] for field in fields if field.startswith(b"content-length:")]
    await reader.readexactly(int(lengths[0]))
    return int(status.split()[1])


def main(how: str, address: str, prefix: str, rate: int, count: int) -> None:
    """Send them all and print when."""
    events = keyed(prefix, count)
    if how == "http":
        sent = uvloop.run(by_http(address, events, rate))
    else:
        sent = by_xadd(address, events, rate)
    sys.stdout.write(json.dumps(sent))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
