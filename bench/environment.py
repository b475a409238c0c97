"""The stage of every benchmark: one server on one core, its clients on the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.process import Cores, on
from tests.servers import Server, default_binary


@dataclass(frozen=True, slots=True)
class Environment:
    """A server that runs, a client of our own to it, and the cores."""

    server: Server
    client: redis.Redis
    cores: Cores

    @property
    def used_memory_bytes(self) -> int:
        """What the server has allocated for data and clients."""
        return int(self.server.info()["used_memory"])

    def dead_letters(self, stream: str) -> int:
        """Return how many dead letters a stream has: of good events there are none."""
        count: int = self.client.xlen(f"{stream}:dead")
        return count

    def drop(self, prefix: str) -> int:
        """Delete every key that begins with `prefix:`, bit by bit; returns how many there were."""
        dropped, cursor = 0, 0
        while True:
            cursor, keys = self.client.scan(cursor, match=f"{prefix}:*", count=1000)
            if keys:
                dropped += self.client.unlink(*keys)
            if cursor == 0:
                return dropped


@contextmanager
def raised(binary: Path | None) -> Iterator[Environment]:
    """Start a server (Valkey of the locked dependencies unless given) and end it at the end.

    This process stays away from the clients' cores meanwhile.
    """
    cores = Cores.found()
    server = Server(binary or default_binary())
    try:
        with on(cores.server):
            server.start()
        with on(cores.measuring), redis.Redis.from_url(server.uri) as client:
            yield Environment(server, client, cores)
    finally:
        server.close()
