"""Where the Python peers read and write, and under which key an event goes."""

import os
from typing import Final

import msgspec

URI: Final = os.environ["BENCH_URI"]
STREAM: Final = os.environ["BENCH_STREAM"]
GROUP: Final = os.environ["BENCH_GROUP"]
CONSUMER: Final = os.environ["BENCH_CONSUMER"]
PREFIX: Final = os.environ["BENCH_PREFIX"]
TTL_S: Final = 604_800
BATCH: Final = 500
BLOCK_MS: Final = 1_000


class _Inbox(msgspec.Struct):
    name: str


class _Head(msgspec.Struct):
    id: int
    inbox: _Inbox


_HEAD: Final = msgspec.json.Decoder(_Head)


def key(payload: bytes) -> str:
    """Return the key of an event's message; decodes no more than that needs."""
    head = _HEAD.decode(payload)
    return f"{PREFIX}:chatwoot:{head.inbox.name}:message:{head.id}"
