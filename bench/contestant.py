"""Who runs: our worker as shipped, and its peers; all are told the same in their environment."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.course import GROUP, STREAM

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that reads the group and fills the cache, until SIGTERM.

    `share` is the part of the stream it runs on: slow ones take too long on all of it.
    """

    key: str
    title: str
    command: tuple[str, ...]
    share: float = 1.0
    processes: int = 1


WORKER: Final = Contestant(
    "worker", "chatwoot-cache run", (str(Path(sys.prefix) / "bin" / "chatwoot-cache"), "run")
)


def environment(uri: str, prefix: str, consumer: str) -> dict[str, str]:
    """Return where to read and to write: in our worker's settings, and in the peers'."""
    return {
        "CACHE_REDIS_URI": uri,
        "CACHE_REDIS_PREFIX_KEY": prefix,
        "CHATWOOT_CACHE_STREAM_KEY": STREAM,
        "CHATWOOT_CACHE_STREAM_GROUP": GROUP,
        "CHATWOOT_CACHE_STREAM_CONSUMER": consumer,
        "CHATWOOT_CACHE_HTTP_PORT": "0",
        "CHATWOOT_CACHE_OPS_PORT": "0",
        "CHATWOOT_CACHE_LOG_FORMAT": "json",
        "BENCH_URI": uri,
        "BENCH_STREAM": STREAM,
        "BENCH_GROUP": GROUP,
        "BENCH_CONSUMER": consumer,
        "BENCH_PREFIX": prefix,
    }
