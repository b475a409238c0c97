"""Sees keys become readable: the server pushes each key that was written, at once.

A push is sent in the same turn of the server's loop as the answer to whoever wrote the key, so no
reader could have found the document earlier, and each could from then on.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import redis

PROBES: Final = 500
WAIT_S: Final = 0.2


class Seen(NamedTuple):
    """A key that was written, and when the push of it had been read."""

    key: str
    at_ns: int


class Observer:
    """Client tracking of some prefixes, by a connection of its own."""

    def __init__(self, uri: str, prefixes: Sequence[str]) -> None:
        self._writer = redis.Redis.from_url(uri, single_connection_client=True)
        # In RESP2 keys come as a message of a channel, which the library hands out like any other.
        self._reader = redis.Redis.from_url(uri, protocol=2)
        self._pushes: Any = self._reader.pubsub()  # type: ignore[no-untyped-call]
        self._pushes.subscribe("__redis__:invalidate")
        self._pushes.get_message(timeout=WAIT_S)
        subscribed: Any = self._writer.client_list(_type="pubsub")
        self._prefixes = prefixes
        tracked = [word for prefix in prefixes for word in ("PREFIX", prefix)]
        self._writer.execute_command(  # type: ignore[no-untyped-call]
            "CLIENT", "TRACKING", "ON", "REDIRECT", subscribed[-1]["id"], "BCAST", *tracked
        )

    def seen(self) -> list[Seen]:
        """Return the keys of the next push; none when none came for a moment."""
        message: Any = self._pushes.get_message(timeout=WAIT_S)
        at_ns = time.monotonic_ns()
        if not message or message["type"] != "message" or not message["data"]:
            return []
        return [Seen(key.decode(), at_ns) for key in message["data"]]

    def own_delays_ns(self) -> list[int]:
        """Return how long it takes to see a write of one's own: the finest this can measure."""
        found = []
        for number in range(PROBES):
            key = f"{self._prefixes[0]}probe-{number}"
            sent_ns = time.monotonic_ns()
            self._writer.set(key, b"", ex=60)
            found += [seen.at_ns - sent_ns for seen in self.seen()]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pushes.close()
        self._reader.close()
        self._writer.close()
