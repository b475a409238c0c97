"""Checkpoint of a backfill, stored beside the stream, and changed in one transaction with it."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from worker.core.cache_keys import backfill_key
from worker.store.client import Client, translate_errors

TTL_S: Final = 86_400
"""How long an interrupted backfill can be resumed."""

DONE: Final = 0
"""In place of a message id: every message of the conversation was read."""

_SCOPE: Final = b"scope"


class BackfillScope(Struct, frozen=True):
    """What a backfill reads: the last `days`, or one conversation; `since_s` is Unix time."""

    days: float | None
    conversation: int | None
    since_s: float


async def snapshot_id(client: Client) -> str:
    """Return a unique entry id, just below every id that the server generates from now on."""
    async with translate_errors(client):
        seconds, micros = await client.time()
    ms = int(seconds) * 1000 + int(micros) // 1000
    return f"{ms - 1}-{secrets.randbits(63)}"


class BackfillCheckpoint:
    """Checkpoint of the one backfill that an instance can have at a time."""

    def __init__(self, client: Client, stream: str, instance: str) -> None:
        self._client = client
        self._stream = stream
        self._key = backfill_key(stream, instance)

    async def begin(self, scope: BackfillScope) -> tuple[BackfillScope, dict[int, int]]:
        """Resume an interrupted backfill of the same scope, else begin a new one.

        Returns the scope as it was first begun, and the lowest message id read of each
        conversation, or `DONE`.
        """
        async with translate_errors(self._client):
            stored = await self._client.hgetall(self._key)
            begun = _scope(stored.pop(_SCOPE, b""))
            if begun and (begun.days, begun.conversation) == (scope.days, scope.conversation):
                return begun, {int(number): int(reached) for number, reached in stored.items()}
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(self._key)
                pipeline.hset(self._key, _SCOPE.decode(), msgspec.json.encode(scope))
                pipeline.expire(self._key, TTL_S)
                await pipeline.execute()
        return scope, {}

    async def add(
        self, entries: Sequence[Mapping[str, bytes]], display_id: int, reached: int
    ) -> None:
        """Add entries to the stream, and store what was read of their conversation."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=True) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._stream, dict(fields))
            pipeline.hset(self._key, str(display_id), reached)
            pipeline.expire(self._key, TTL_S)
            await pipeline.execute()

    async def end(self) -> None:
        """Delete the checkpoint: the next backfill begins a new one."""
        async with translate_errors(self._client):
            await self._client.delete(self._key)


def _scope(stored: bytes) -> BackfillScope | None:
    try:
        return msgspec.json.decode(stored, type=BackfillScope)
    except msgspec.DecodeError:
        return None
