"""A stream and a cache of one test's own, looked at with a plain client."""

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.events import message
from tests.waiting import wait_until

GROUP = "chatwoot-cache"
Body = bytes | Mapping[str, Any]


class Place:
    """Names on a server, the settings that lead a worker there, and what stands there."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri = uri
        self.name = name
        self.stream = f"{name}:events"
        # Sees the server go and come back, as the worker does, without waiting for it.
        self.redis = redis.Redis.from_url(uri, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def settings(self, **others: str) -> dict[str, str]:
        """The environment of a worker that works here, on free ports; `others` lack our prefix."""
        ours = {
            "STREAM_KEY": self.stream,
            "STREAM_CONSUMER": "worker-1",
            "STREAM_BLOCK_S": "0.1",
            "HTTP_PORT": "0",
            "OPS_PORT": "0",
            **others,
        }
        return {
            "CACHE_REDIS_URI": self.uri,
            "CACHE_REDIS_PREFIX_KEY": self.name,
            **{f"CHATWOOT_CACHE_{name}": text for name, text in ours.items()},
        }

    def add(self, *payloads: Body, **fields: bytes) -> list[bytes]:
        """Put events on the stream as any producer would; `fields` stand beside each payload."""
        return self.add_entries({b"payload": raw(body), **_named(fields)} for body in payloads)

    def add_entries(self, entries: Iterable[Mapping[bytes, bytes]]) -> list[bytes]:
        """Put entries on the stream, in one step."""
        with self.redis.pipeline(transaction=True) as pipeline:
            for entry in entries:
                pipeline.xadd(self.stream, dict(entry))  # type: ignore[arg-type]  # invariant
            return list(pipeline.execute())

    def pending(self) -> list[dict[str, Any]]:
        """What was handed out and not settled: id, consumer, attempts."""
        rows: Any = self.redis.xpending_range(self.stream, GROUP, "-", "+", 1000)
        return list(rows)

    def has_blocked(self) -> bool:
        """Tell whether a worker waits for new entries of this stream's server."""
        clients: Any = self.redis.client_list()
        return any(c["cmd"] == "xreadgroup" and "b" in c["flags"] for c in clients)

    def is_settled(self) -> bool:
        """Tell whether everything was read and nothing is pending."""
        if not self.redis.exists(self.stream):
            return False
        groups: Any = self.redis.xinfo_groups(self.stream)
        info: Any = self.redis.xinfo_stream(self.stream)
        return any(
            group["name"] == GROUP.encode()
            and group["pending"] == 0
            and group["last-delivered-id"] == info["last-generated-id"]
            for group in groups
        )

    async def settled(self, *, timeout_s: float = 10.0) -> None:
        """Wait until everything on the stream was settled."""
        await wait_until(self.is_settled, "every entry is settled", timeout_s=timeout_s)

    def letters(self) -> list[dict[bytes, bytes]]:
        """The dead letters, oldest first."""
        entries: Any = self.redis.xrange(f"{self.stream}:dead")
        return [fields for _, fields in entries]

    def reasons(self) -> list[str]:
        """Why each dead letter is dead, oldest first."""
        return [letter[b"_reason"].decode() for letter in self.letters()]

    def document(self, *path: str | int) -> Any:
        """A cached document by what follows the prefix in its key, None where there is none."""
        value: Any = self.redis.get(self.key(*path))
        return None if value is None else json.loads(value)

    def length(self) -> int:
        """Entries in the stream."""
        length: Any = self.redis.xlen(self.stream)
        return int(length)

    def values(self, keys: list[str]) -> list[bytes | None]:
        """What stands under many keys."""
        found: Any = self.redis.mget(keys)
        return list(found)

    def key(self, *path: str | int) -> str:
        """A key of the cache."""
        return ":".join((self.name, "chatwoot", *map(str, path)))

    def do(self, command: str) -> Any:
        """Send a command as it would be typed."""
        return self.redis.execute_command(command)  # type: ignore[no-untyped-call]

    def found(self) -> set[bytes]:
        """Every key of the cache."""
        return set(self.redis.scan_iter(f"{self.name}:chatwoot:*", count=1000))


@contextmanager
def load(place: Place) -> Iterator[list[int]]:
    """Publish messages 1, 2, 3, … without a pause; gives the numbers of those the server has."""
    published: list[int] = []
    over = threading.Event()

    def publish() -> None:
        for first in count(1, 50):
            if over.is_set():
                return
            numbers = range(first, first + 50)
            with contextlib.suppress(redis.RedisError):
                place.add(*(message(n, conversation_id=n % 9 + 1) for n in numbers))
                published.extend(numbers)

    producer = threading.Thread(target=publish)
    producer.start()
    try:
        yield published
    finally:
        over.set()
        producer.join()


def raw(body: Body) -> bytes:
    """A body as it is sent."""
    if isinstance(body, bytes):
        return body
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _named(fields: Mapping[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in fields.items()}
