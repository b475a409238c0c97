"""`make soak-memory`: a worker's memory must not grow with the number of entries."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import anyio
from rich.console import Console

from tests.e2e.place import Place
from tests.e2e.process import Worker, running
from tests.servers import Server, default_binary
from tests.soak.events import Sent
from tests.waiting import wait_until

_EARLY: Final = 100_000
_MESSAGES: Final = 20_000
_CHUNK: Final = 500
_AHEAD: Final = 20_000
_GROWTH: Final = 1.2
_MIB: Final = 1024 * 1024


class Feed:
    """Adds entries about the same messages again and again, never far ahead of the worker."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.added = 0

    async def add_until(self, total: int, worker: Worker) -> None:
        """Add entries, and wait until they are settled."""
        while self.added < total:
            self._place.add(*(self._body(self.added + n) for n in range(_CHUNK)))
            self.added += _CHUNK
            if self.added % _AHEAD == 0:
                await self._place.settled(timeout_s=60)
        await self._place.settled(timeout_s=60)
        await wait_until(lambda: not worker.metric("inflight_entries"), "nothing is in hand")

    def _body(self, number: int) -> bytes:
        return Sent(number % _MESSAGES + 1, number // _MESSAGES).body()


async def measure(entries: int, console: Console) -> bool:
    """Print the memory after some entries and after all; True when it stayed flat."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(default_binary()) as server,
    ):
        place = Place(server.uri, "soak")
        with place.redis:
            settings = place.settings(STREAM_RETENTION_S="5")
            async with running(Path(directory), settings) as worker:
                feed, started = Feed(place), time.monotonic()
                await feed.add_until(min(_EARLY, entries // 2), worker)
                early, first = worker.rss_now_bytes, feed.added
                await feed.add_until(entries, worker)
                late, seconds = worker.rss_now_bytes, time.monotonic() - started
            used: Any = place.redis.info("memory")
    console.print(
        f"{early / _MIB:.1f} MiB after {first:,} entries, {late / _MIB:.1f} MiB after {entries:,}:"
        f" {late / early - 1:+.0%}  ({entries / seconds:,.0f} entries/s; the server holds"
        f" {used['used_memory'] / _MIB:.0f} MiB with the cache)"
    )
    return late <= early * _GROWTH


def main(arguments: list[str]) -> int:
    """Measure as the arguments say; 0 when memory stayed flat, else 1."""
    parser = argparse.ArgumentParser(prog="make soak-memory", description=__doc__)
    parser.add_argument("--entries", type=int, default=2_000_000)
    given = parser.parse_args(arguments)
    good = anyio.run(measure, given.entries, Console(), backend_options={"use_uvloop": True})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
