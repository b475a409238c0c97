"""How far a backfill has come, kept beside the stream it fills: both change in one step."""

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
"""How far a conversation has come whose every message was read."""


class BackfillScope(Struct, frozen=True):
    """What a backfill is asked for: the days back, or one conversation; `since_s` is Unix time."""

    days: float | None
    conversation: int | None
    since_s: float


class BackfillCheckpoint:
    """The backfill of one instance; there is one at a time, which a later one goes on with."""

    def __init__(self, client: Client, stream: str, instance: str) -> None:
        self._client = client
        self._stream = stream
        self._key = backfill_key(stream, instance)

    async def begin(self, scope: BackfillScope) -> tuple[BackfillScope, dict[int, int]]:
        """Go on where an interrupted backfill of the same scope stopped, else begin anew.

        Returns the scope as it was first begun, and for each conversation that was read: the
        lowest message id reached, or `DONE`.
        """
        async with translate_errors(self._client):
            held = await self._client.hgetall(self._key)
            before = _scope(held.pop(_SCOPE, b""))
            if before and (before.days, before.conversation) == (scope.days, scope.conversation):
                return before, {int(number): int(at) for number, at in held.items()}
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(self._key)
                pipeline.hset(self._key, _SCOPE.decode(), msgspec.json.encode(scope))
                pipeline.expire(self._key, TTL_S)
                await pipeline.execute()
        return scope, {}

    async def snapshot_id(self) -> str:
        """Return an id for entries of what is asked for now.

        It is just below any that the server will give from now on, and like no other.
        """
        async with translate_errors(self._client):
            seconds, micros = await self._client.time()
        ms = int(seconds) * 1000 + int(micros) // 1000
        return f"{ms - 1}-{secrets.randbits(63)}"

    async def put(
        self, entries: Sequence[Mapping[str, bytes]], display_id: int, reached: int
    ) -> None:
        """Add entries to the stream, and note how far their conversation has come, in one step."""
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
        """Add entries to the stream, and note nothing."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._stream, dict(fields))
            await pipeline.execute()

    async def end(self) -> None:
        """Forget all of it: the next backfill begins anew."""
        async with translate_errors(self._client):
            await self._client.delete(self._key)


def _scope(stored: bytes) -> BackfillScope | None:
    try:
        return msgspec.json.decode(stored, type=BackfillScope)
    except msgspec.DecodeError:
        return None
