"""Client-side caching with Redis: invalidations for the local tier.

One RESP2 connection redirects invalidations to itself (`CLIENT TRACKING ON REDIRECT <own id>
BCAST`) and subscribes to their channel. So there is no second connection whose loss could go
unnoticed. A PING on this connection is answered after all invalidations of earlier writes, so its
reply shows that the local tier was valid when the PING was sent.
"""

import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

import anyio
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from worker.core.operations.acl_rules import INVALIDATIONS
from worker.errors import ConfigurationError, PermissionDenied, RedisUnavailable
from worker.ops.logs import LogThrottle
from worker.store.backoff import Backoff
from worker.store.cache.local_cache import LocalCache
from worker.store.client import Client, translate_errors

log = structlog.get_logger()

PING_S: Final = 0.25

LEASE_S: Final = 1.0
"""How long an answered PING keeps the local tier valid, counted from when it was sent."""

_STABLE_S: Final = 10.0
"""A connection that lasted this long resets the back-off."""

_LOG_EVERY_S: Final = 10.0


class InvalidationListener:
    """Invalidates the keys of a local tier that begin with `prefix`, while `run` is running.

    The client must not be used for anything else.
    """

    def __init__(self, client: Client, prefix: str, local: LocalCache) -> None:
        self._client = client
        # RESP3 (`?protocol=3` in the URI) would deliver invalidations as push messages.
        client.connection_pool.connection_kwargs["protocol"] = 2
        self._prefix = prefix
        self._local = local
        self._ping_times: deque[float] = deque()
        self._throttle = LogThrottle(_LOG_EVERY_S)

    async def run(self) -> None:
        """Track until cancelled; raises `PermissionDenied` and `ConfigurationError`."""
        backoff = Backoff(first_s=0.05, max_s=1.0)
        while True:
            started_at = time.monotonic()
            try:
                await self._track()
            except RedisUnavailable as error:
                self._log_lost(error)
            if time.monotonic() - started_at > _STABLE_S:
                backoff.reset()
            await anyio.sleep(backoff.next_delay_s())

    async def _track(self) -> None:
        """Track until the connection is lost."""
        async with translate_errors(self._client):
            connection = await self._client.connection_pool.get_connection()
            try:
                await self._subscribe(connection)
                await self._listen(connection)
            finally:
                self._local.reset()
                with anyio.CancelScope(shield=True), suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)
                    await self._client.connection_pool.release(connection)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        try:
            client_id = await _execute(connection, "CLIENT", "ID")
            options = ("REDIRECT", client_id, "BCAST", "PREFIX", self._prefix)
            await _execute(connection, "CLIENT", "TRACKING", "ON", *options)
            await _execute(connection, "SUBSCRIBE", INVALIDATIONS)
        except ResponseError as error:
            raise _explain(error) from error

    async def _listen(self, connection: AbstractConnection) -> None:
        self._ping_times.clear()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ping, connection)
                while True:
                    self._handle(await connection.read_response())
        except ExceptionGroup as group:
            # The first failure cancelled the other task.
            raise group.exceptions[0] from None

    async def _ping(self, connection: AbstractConnection) -> None:
        while True:
            self._ping_times.append(time.monotonic())
            await connection.send_command("PING", check_health=False)
            await anyio.sleep(PING_S)

    def _handle(self, message: Any) -> None:
        """Apply `[pong, text]` or `[message, channel, keys]`; keys are None after a flush."""
        kind, _, *payload = message
        if kind == b"pong":
            self._local.extend_validity(self._ping_times.popleft() + LEASE_S)
        elif payload[0] is None:
            self._local.clear()
        else:
            self._local.invalidate([key.decode(errors="replace") for key in payload[0]])

    def _log_lost(self, error: RedisUnavailable) -> None:
        count = self._throttle.ready(error.kind)
        if count is not None:
            log.warning("tracking.lost", kind=error.kind, error=str(error), suppressed=count)


async def _execute(connection: AbstractConnection, *command: Any) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response()


def _explain(error: ResponseError) -> Exception:
    if "NOPERM" in str(error) or "no permissions" in str(error):
        return PermissionDenied(
            "CACHE_LOCAL_ENABLED=true needs the rights +client|id +client|tracking +subscribe +ping"
            f" &{INVALIDATIONS} in Redis: {error}"
        )
    return ConfigurationError(
        f"CACHE_LOCAL_ENABLED=true needs a server with CLIENT TRACKING: {error};"
        " set CACHE_LOCAL_ENABLED=false"
    )
