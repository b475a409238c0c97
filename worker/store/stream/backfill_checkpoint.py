"""The checkpoint of a backfill, which changes in one step with the stream it fills."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from worker.core.cache_keys import backfill_key
from worker.store.client import Client, translate_errors

TTL_S: Final = 86_400
"""How long an interrupted backfill can be resumed."""

_SCOPE: Final = b"scope"
DONE: Final = 0
"""The checkpoint of a conversation whose every message was read."""


class BackfillScope(Struct, frozen=True):
    """The range of a backfill: days back, or one conversation; `since_s` is Unix time."""

    days: float | None
    conversation: int | None
    since_s: float


class BackfillCheckpoint:
    """The checkpoint of one instance, which has one backfill at a time."""

    def __init__(self, client: Client, stream: str, instance: str) -> None:
        self._client = client
        self._stream = stream
        self._key = backfill_key(stream, instance)

    async def begin(self, scope: BackfillScope) -> tuple[BackfillScope, dict[int, int]]:
        """Resume an interrupted backfill of the same scope, else start a new one.

        Returns the scope as it was first started and, for each conversation, the lowest message id
        reached or `DONE`.
        """
        async with translate_errors(self._client):
            saved = await self._client.hgetall(self._key)
            before = _scope(saved.pop(_SCOPE, b""))
            if before and (before.days, before.conversation) == (scope.days, scope.conversation):
                return before, {int(number): int(at) for number, at in saved.items()}
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(self._key)
                pipeline.hset(self._key, _SCOPE.decode(), msgspec.json.encode(scope))
                pipeline.expire(self._key, TTL_S)
                await pipeline.execute()
        return scope, {}

    async def snapshot_id(self) -> str:
        """Return a unique id for entries of what Chatwoot returns from now on.

        It is lower than every id that the server will give.
        """
        async with translate_errors(self._client):
            seconds, micros = await self._client.time()
        ms = int(seconds) * 1000 + int(micros) // 1000
        return f"{ms - 1}-{secrets.randbits(63)}"

    async def put(
        self, entries: Sequence[Mapping[str, bytes]], display_id: int, reached: int
    ) -> None:
        """Add entries to the stream and save their conversation's checkpoint in one step."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=True) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._stream, dict(fields))
            pipeline.hset(self._key, str(display_id), reached)
            pipeline.expire(self._key, TTL_S)
            await pipeline.execute()

    async def add(self, entries: Sequence[Mapping[str, bytes]]) -> None:
        """Add entries to the stream without a checkpoint."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._stream, dict(fields))
            await pipeline.execute()

    async def end(self) -> None:
        """Delete the checkpoint: the next backfill starts from the beginning."""
        async with translate_errors(self._client):
            await self._client.delete(self._key)


def _scope(stored: bytes) -> BackfillScope | None:
    try:
        return msgspec.json.decode(stored, type=BackfillScope)
    except msgspec.DecodeError:
        return None
