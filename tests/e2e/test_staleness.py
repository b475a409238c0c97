"""Two sidecars with a local tier, and a writer: no read is older than the news of it.

`make test-stale` runs it at full length and prints what was measured.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from tests import events
from tests.e2e.conftest import ServerStarter
from tests.e2e.process import Worker, running
from tests.store.test_document_writer import INSTANCE, pending_writes
from tests.waiting import wait_until
from worker.core.cache_keys import CacheKeys
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.client import Client, create_client

OPERATIONS = int(os.environ.get("CHATWOOT_CACHE_TEST_OPERATIONS", "6000"))
MESSAGES = 60
CONVERSATIONS = 6
DELAY_S = 0.1
"""What news may take on a machine that does other things too; a few milliseconds is usual."""

KEY = "reads all"


@dataclass
class History:
    """What a message was, in order: when that was asked for, acknowledged, and which version."""

    states: list[tuple[float, float, int | None]] = field(
        default_factory=lambda: [(0.0, 0.0, None)]
    )

    def age_s(self, seen: int | None, began: float, ended: float) -> float:
        """How long the state that a read saw had been over when the read began."""
        indexes = [
            index
            for index, (asked, _, version) in enumerate(self.states)
            if version == seen and asked <= ended
        ]
        assert indexes, f"a state that never was: {seen}"
        following = self.states[indexes[-1] + 1 : indexes[-1] + 2]
        return max((began - acked for _, acked, _ in following), default=0.0)


@dataclass
class Trial:
    """One run: what was written, and how old what was read had been."""

    cache: DocumentWriter
    client: Client
    histories: dict[int, History]
    chance: random.Random
    ages: list[float] = field(default_factory=list)
    # A message is witnessed when it was created at the least, 0.5 s into the clock of `body`.
    version: int = 100
    left: int = OPERATIONS

    async def write(self) -> None:
        """Write or delete some message, until all operations are done."""
        while self.left > 0:
            self.left -= 1
            number = self.chance.randint(1, MESSAGES)
            history = self.histories[number]
            self.version += 1
            asked = time.perf_counter()
            # Seen as asked for at once: a reader may see it before the answer comes.
            kept = None if self.chance.random() < 0.2 else self.version
            history.states.append((asked, float("inf"), kept))
            if kept is None:
                await self.client.delete(self.cache.keys.message(INSTANCE, number))
            else:
                written = await self.cache.write(pending_writes(body(number, self.version)))
                assert written.outcomes[0] == "applied"
            history.states[-1] = (asked, time.perf_counter(), kept)
            await anyio.sleep(self.chance.choice([0, 0, 0.002]))

    async def read(self, port: int) -> None:
        """Read messages one by one, and by conversation, from one sidecar."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while self.left > 0:
            self.left -= 1
            number = self.chance.randint(1, MESSAGES)
            lists = self.chance.random() < 0.3
            path = (
                f"conversations/{conversation(number)}/messages" if lists else f"messages/{number}"
            )
            began = time.perf_counter()
            code, answer = await ask(reader, writer, path)
            ended = time.perf_counter()
            assert code in (200, 404), answer
            seen = answer.get("messages", [answer] if code == 200 else [])
            for message in seen:
                version = int(message["content"].removeprefix("v"))
                self.ages.append(self.histories[message["id"]].age_s(version, began, ended))
            if not lists and not seen:
                self.ages.append(self.histories[number].age_s(None, began, ended))
        writer.close()


def body(number: int, version: int) -> dict[str, Any]:
    """A message in a version of it; each is later than the one before."""
    at = 1_790_863_271.0 + version / 100
    where = conversation(number)
    return events.message(number, conversation_id=where, content=f"v{version}", at=at)


def conversation(number: int) -> int:
    """The conversation of a message."""
    return number % CONVERSATIONS + 1


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> tuple[int, Any]:
    """Ask on a connection that stays open."""
    request = f"GET /instances/{INSTANCE}/{path} HTTP/1.1\r\nHost: x\r\napikey: {KEY}\r\n\r\n"
    writer.write(request.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), json.loads(await reader.readexactly(size))


def port_of(worker: Worker) -> int:
    """The public port of a worker."""
    (started,) = worker.logged("worker.started")
    return int(started["reads"].split(":")[2].partition("/")[0])


async def test_no_read_is_older_than_the_news_of_it(private: ServerStarter, tmp_path: Path) -> None:
    """While two sidecars are read and one writer works; also when their tracking is cut."""
    server, place = private()
    settings = place.settings(HTTP_API_KEY=KEY) | {"CACHE_LOCAL_ENABLED": "true"}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(create_client(server.uri))
        sidecars = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            starting = running(tmp_path / name, settings, "--no-consume")
            sidecars.append(await stack.enter_async_context(starting))
        await wait_until(lambda: tracked(place.redis) == 2, "both sidecars are told of writes")
        trial = Trial(
            DocumentWriter(client, CacheSettings(place.name, ttl_s=1000)),
            client,
            {number: History() for number in range(1, MESSAGES + 1)},
            random.Random(6),
        )
        await run(trial, [port_of(sidecar) for sidecar in sidecars], lambda: cut(place.redis))
        local = sum(s.metric("reads_total", tier="local") for s in sidecars)
        redis = sum(s.metric("reads_total", tier="redis") for s in sidecars)
        keys = {k.decode() for k in place.redis.scan_iter(f"{place.name}:*")}

    report(trial, local, redis)
    assert max(trial.ages) <= DELAY_S
    assert local > redis / 10, "the local tier answered"
    assert any(key.startswith(CacheKeys(place.name).root) for key in keys)


async def run(trial: Trial, ports: list[int], cut: Callable[[], None]) -> None:
    """Write and read at once; in the second half, cut the tracking again and again."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trial.write)
        for port in ports * 2:
            tasks.start_soon(trial.read, port)
        half = OPERATIONS // 2
        await wait_until(lambda: trial.left < half, "half is done", timeout_s=600)
        while trial.left > 0:
            cut()
            await anyio.sleep(0.3)


def tracked(client: Any) -> int:
    """How many connections are told of writes."""
    return sum(c["sub"] == "1" for c in client.client_list(_type="pubsub"))


def cut(client: Any) -> None:
    """Cut every connection that is told of writes."""
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def report(trial: Trial, local: float, redis: float) -> None:
    """Say what was measured."""
    ages = sorted(trial.ages)
    late = [age for age in ages if age > 0]
    print(  # noqa: T201  (for whoever runs it at length)
        f"\n{trial.version - 100} writes and deletes, {len(ages)} states read,"
        f" {local:.0f} answers from memory, {redis:.0f} from Redis;"
        f" {len(late)} states were over when their read began,"
        f" by {1000 * max(ages):.2f} ms at the most"
    )
