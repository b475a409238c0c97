"""Who runs: our worker as shipped, and its peers; all are told the same in their environment."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.workload import GROUP, STREAM

ROOT: Final = Path(__file__).parent.parent
NODE: Final = Path(__file__).parent / "peers" / "node"
BIN: Final = Path(sys.prefix) / "bin"
FASTSTREAM: Final = Path(sys.prefix) / "bench" / "bin" / "python"
"""FastStream has an environment of its own, so that it and ours never choose each other's."""

PER_EVENT_SHARE: Final = 0.2


def _always() -> str:
    return ""


def _without_faststream() -> str:
    return "" if FASTSTREAM.exists() else "FastStream is not installed: make .venv/.bench"


def _without_node() -> str:
    if not shutil.which("node"):
        return "no node in PATH"
    return (
        "" if (NODE / "node_modules").exists() else "node redis is not installed: make .venv/.bench"
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A program that reads the group and fills the cache, until SIGTERM.

    `share` is the part of the stream it runs on: slow ones would take too long on all of it.
    `missing` says why it cannot run, nothing when it can.
    """

    key: str
    title: str
    command: tuple[str, ...]
    share: float = 1.0
    processes: int = 1
    missing: Callable[[], str] = _always


WORKER: Final = Target("worker", "chatwoot-cache run", (str(BIN / "chatwoot-cache"), "run"))
TWO_WORKERS: Final = Target(
    "two-workers", "chatwoot-cache run, two processes", WORKER.command, processes=2
)
PEERS: Final = (
    Target(
        "redis-py",
        "redis-py, per event",
        (str(BIN / "python"), "-m", "bench.peers.redis_py"),
        share=PER_EVENT_SHARE,
    ),
    Target(
        "faststream",
        "FastStream, batches of 500",
        (str(FASTSTREAM), "-m", "bench.peers.faststream_batch"),
        missing=_without_faststream,
    ),
    Target(
        "node",
        "node redis, per event as Evolution",
        ("node", str(NODE / "redis.js"), "per-event"),
        share=PER_EVENT_SHARE,
        missing=_without_node,
    ),
    Target(
        "node-batched",
        "node redis, batches of 500",
        ("node", str(NODE / "redis.js"), "batched"),
        missing=_without_node,
    ),
)
EVERYONE: Final = (WORKER, TWO_WORKERS, *PEERS)


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
        "PYTHONPATH": str(ROOT),
    }
