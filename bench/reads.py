"""How fast reads are: over HTTP on a connection kept open, beside Redis itself and a REST answer.

`python -m bench.reads` starts a server and workers of its own; it exits with 1 when a target is
missed.
"""

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from tests import events, servers
from worker.core import chatwoot_event
from worker.core.cache_keys import CacheKeys
from worker.core.documents import PendingWrite
from worker.core.stream_entry import Entry, read_envelope
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.client import Client, create_client

INSTANCE: Final = "loja-aurora"
PREFIX: Final = "bench-reads"
KEY: Final = "bench"
CONVERSATIONS: Final = 200
MESSAGES: Final = 50
CONNECTIONS: Final = 8
START_S: Final = 15.0

Question = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one way to read, times in milliseconds."""

    name: str
    p50: float
    p99: float
    per_second: float


async def main(arguments: argparse.Namespace) -> int:
    """Measure, print, and say whether the targets are met."""
    count = arguments.requests
    async with AsyncExitStack() as stack:
        server = stack.enter_context(servers.Server(servers.default_binary()))
        client = await stack.enter_async_context(create_client(server.uri))
        await fill(client)
        # In a memory that holds all, and in one that holds too little of it: always a miss.
        hit = stack.enter_context(sidecar(server.uri, LOCAL_MAX_BYTES="268435456"))
        miss = stack.enter_context(sidecar(server.uri, LOCAL_MAX_BYTES="1048576"))
        rest = await stack.enter_async_context(stand_in(arguments.rest_ms / 1000))
        for path in (message, last):  # so that all is in memory
            await measured("", hit, path, CONVERSATIONS * MESSAGES)
        rows = [
            await measured("message, local tier hit", hit, message, count),
            await measured("message, local tier miss", miss, message, count),
            await plainly("message, redis-py GET", get(client), count),
            await measured("last 20, local tier hit", hit, last, count),
            await measured("last 20, local tier miss", miss, last, count),
            await plainly("last 20, redis-py ZRANGE and MGET", get_last(client), count),
            await measured(
                f"stand-in for Chatwoot's REST, {arguments.rest_ms:g} ms", rest, last, 100
            ),
        ]
    return report({row.name: row for row in rows})


async def fill(client: Client) -> None:
    """Put conversations of some messages each into the cache."""
    cache = DocumentWriter(client, CacheSettings(PREFIX))
    for conversation in range(1, CONVERSATIONS + 1):
        first = conversation * MESSAGES
        await cache.write([d for n in range(first, first + MESSAGES) for d in drafts(n)])


def drafts(number: int) -> list[PendingWrite]:
    """Return the documents of one event of Evolution's inbox."""
    body = events.message(number, conversation_id=number // MESSAGES, source_id=f"WAID:{number}")
    # Nobody is assigned, so the latest messages are looked at too.
    body["conversation"]["meta"]["assignee"] = None
    entry = Entry(f"{int(time.time() * 1000)}-0".encode(), {b"payload": events.encode(body)})
    event = chatwoot_event.decode_event(entry.fields[b"payload"])
    if event is None:
        raise AssertionError
    said = read_envelope(entry)
    documents = chatwoot_event.build_documents(event, said, chatwoot_event.Destination(INSTANCE, 3))
    return [PendingWrite(document, said.ms) for document in documents if document is not None]


def message(number: int) -> str:
    """Return the path of one message after the other."""
    return f"messages/{MESSAGES + number % (CONVERSATIONS * MESSAGES)}"


def last(number: int) -> str:
    """Return the path of one conversation after the other."""
    return f"conversations/{1 + number % CONVERSATIONS}/messages"


@contextmanager
def sidecar(uri: str, **settings: str) -> Iterator[int]:
    """Run a worker that only serves reads; gives its port."""
    ours = {"HTTP_API_KEY": KEY, "HTTP_PORT": "0", "OPS_PORT": "0", **settings}
    environment = {
        "PATH": os.environ["PATH"],
        "CACHE_REDIS_URI": uri,
        "CACHE_REDIS_PREFIX_KEY": PREFIX,
        "CACHE_LOCAL_ENABLED": "true",
        **{f"CHATWOOT_CACHE_{name}": value for name, value in ours.items()},
    }
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run", "--no-consume"],
                cwd=directory,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        try:
            yield started(log)
        finally:
            process.terminate()
            process.wait()


def started(log: Path) -> int:
    """Return the port once a worker says it."""
    for _ in range(int(START_S / 0.05)):
        for line in log.read_text().splitlines():
            said = json.loads(line)
            if said["event"] == "worker.started":
                return int(said["reads"].split(":")[2].partition("/")[0])
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


@asynccontextmanager
async def stand_in(delay_s: float) -> AsyncIterator[int]:
    """Serve what Chatwoot's REST API takes its time for; gives the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            await asyncio.sleep(delay_s)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connected(port: int, path: Callable[[int], str]) -> AsyncIterator[Question]:
    """Ask over HTTP, on one connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(number: int) -> bytes:
        target = f"/instances/{INSTANCE}/{path(number)}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\napikey: {KEY}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise AssertionError(head)
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return await reader.readexactly(size)

    try:
        yield ask
    finally:
        writer.close()


async def measured(name: str, port: int, path: Callable[[int], str], count: int) -> Figures:
    """Measure one connection by itself, then several at once."""
    async with AsyncExitStack() as stack:
        asking = [
            await stack.enter_async_context(connected(port, path)) for _ in range(CONNECTIONS)
        ]
        times = await timed(asking[0], iter(range(count)))
        numbers = iter(range(count))
        began = time.perf_counter()
        await asyncio.gather(*(timed(ask, numbers) for ask in asking))
        return figures(name, times, count / (time.perf_counter() - began))


async def plainly(name: str, ask: Question, count: int) -> Figures:
    """Measure questions to Redis itself."""
    times = await timed(ask, iter(range(count)))
    numbers = iter(range(count))
    began = time.perf_counter()
    await asyncio.gather(*(timed(ask, numbers) for _ in range(CONNECTIONS)))
    return figures(name, times, count / (time.perf_counter() - began))


async def timed(ask: Question, numbers: Iterator[int]) -> list[float]:
    """Ask one after the other; returns how long each took, in seconds."""
    times = []
    for number in numbers:
        began = time.perf_counter()
        await ask(number)
        times.append(time.perf_counter() - began)
    return times


def figures(name: str, times: list[float], per_second: float) -> Figures:
    """Sum times up."""
    ordered = sorted(times)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Figures(name, p50, p99, per_second)


def get(client: Client) -> Question:
    """Ask Redis for one document."""
    keys = CacheKeys(PREFIX)

    async def ask(number: int) -> Any:
        return await client.get(keys.message(INSTANCE, int(message(number).split("/")[1])))

    return ask


def get_last(client: Client) -> Question:
    """Ask Redis for the last 20, as any program would."""
    keys = CacheKeys(PREFIX)

    async def ask(number: int) -> Any:
        timeline = keys.timeline(INSTANCE, 1 + number % CONVERSATIONS)
        ids = await client.zrange(timeline, -20, -1)
        return await client.mget([keys.message(INSTANCE, int(member)) for member in ids])

    return ask


def report(rows: dict[str, Figures]) -> int:
    """Print a table, the ratio of hit to miss, and the targets; 1 when one is missed."""
    width = max(map(len, rows))
    lines = [f"{'':{width}}  {'p50 ms':>8}  {'p99 ms':>8}  {f'req/s, {CONNECTIONS} at once':>18}"]
    lines += [
        f"{row.name:{width}}  {row.p50:8.3f}  {row.p99:8.3f}  {row.per_second:18,.0f}"
        for row in rows.values()
    ]
    for what in ("message", "last 20"):
        hit, miss = rows[f"{what}, local tier hit"], rows[f"{what}, local tier miss"]
        lines.append(f"{what}: a miss takes {miss.p50 / hit.p50:.1f} times as long as a hit")
    targets = {
        "message, local tier hit": 1.0,
        "last 20, local tier hit": 1.0,
        "last 20, local tier miss": 3.0,
    }
    met = [rows[name].p50 < most for name, most in targets.items()]
    lines += [
        f"{name}: p50 under {most:g} ms: {'met' if is_met else 'missed'}"
        for (name, most), is_met in zip(targets.items(), met, strict=True)
    ]
    sys.stdout.write("\n".join(itertools.chain(lines, [""])))
    return 0 if all(met) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="for each figure (10000)")
    parser.add_argument(
        "--rest-ms", type=float, default=80.0, help="what Chatwoot's REST API takes (80)"
    )
    raise SystemExit(uvloop.run(main(parser.parse_args())))
