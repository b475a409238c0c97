"""What others write, as the server tells it: client tracking for the local tier.

One connection, which asks that the keys written under our prefix be told to itself
(`CLIENT TRACKING ON REDIRECT <its own id> BCAST`), as RESP2 messages on a channel.
So there is no second connection whose loss could go unnoticed: where news cannot come any more,
this connection is gone. Whether it is gone, a PING tells that is answered on the same way:
all that was written before the answer was told before it.
"""

import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

import anyio
import structlog
from redis.exceptions import RedisError, ResponseError

from worker.core.tooling.acl_rules import INVALIDATIONS
from worker.errors import ConfigurationError, PermissionRefused, RedisUnavailable
from worker.ops.logs import LogThrottle
from worker.store.cache.local_cache import LocalCache
from worker.store.client import Client, translate_errors

log = structlog.get_logger()

PING_S: Final = 0.25

LEASE_S: Final = 1.0
"""How long an answered PING vouches for what is in memory, counted from when it was sent."""

_BACKOFF_S: Final = (0.05, 0.2, 0.5, 1.0)
_STOOD_S: Final = 10.0
_LOG_EVERY_S: Final = 10.0


class Tracking:
    """Keeps a local tier true to the keys that begin with `prefix`, for as long as it runs.

    The client is for nothing else.
    """

    def __init__(self, client: Client, prefix: str, local: LocalCache) -> None:
        self._client = client
        # Which a URI may ask otherwise: then news would come in another way.
        client.connection_pool.connection_kwargs["protocol"] = 2
        self._prefix = prefix
        self._local = local
        self._asked_at: deque[float] = deque()
        self._throttle = LogThrottle(_LOG_EVERY_S)

    async def run(self) -> None:
        """Track until cancelled; raises `PermissionRefused` and `ConfigurationError`."""
        tries = 0
        while True:
            began_at = time.monotonic()
            try:
                await self._track()
            except RedisUnavailable as error:
                self._say_lost(error)
            tries = 0 if time.monotonic() - began_at > _STOOD_S else tries + 1
            await anyio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])

    async def _track(self) -> None:
        """Track until the connection is lost."""
        async with translate_errors(self._client):
            connection = await self._client.connection_pool.get_connection()
            try:
                await self._subscribe(connection)
                await self._listen(connection)
            finally:
                self._local.forget()
                with anyio.CancelScope(shield=True), suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)
                    await self._client.connection_pool.release(connection)

    async def _subscribe(self, connection: Any) -> None:
        try:
            me = await _ask(connection, "CLIENT", "ID")
            await _ask(
                connection,
                *("CLIENT", "TRACKING", "ON", "REDIRECT", me, "BCAST", "PREFIX", self._prefix),
            )
            await _ask(connection, "SUBSCRIBE", INVALIDATIONS)
        except ResponseError as error:
            raise _explained(error) from error

    async def _listen(self, connection: Any) -> None:
        self._asked_at.clear()
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(self._ping, connection)
                while True:
                    self._hear(await connection.read_response())
        except ExceptionGroup as group:
            # Where one of the two met the end first, the other was cancelled.
            raise group.exceptions[0] from None

    async def _ping(self, connection: Any) -> None:
        while True:
            self._asked_at.append(time.monotonic())
            await connection.send_command("PING", check_health=False)
            await anyio.sleep(PING_S)

    def _hear(self, message: Any) -> None:
        kind, _, *rest = message
        if kind == b"pong":
            self._local.trust(self._asked_at.popleft() + LEASE_S)
        elif rest[0] is None:
            self._local.clear()
        else:
            self._local.invalidate([key.decode(errors="replace") for key in rest[0]])

    def _say_lost(self, error: RedisUnavailable) -> None:
        count = self._throttle.ready(error.kind)
        if count is not None:
            log.warning("tracking.lost", kind=error.kind, error=str(error), suppressed=count)


async def _ask(connection: Any, *command: Any) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response()


def _explained(error: ResponseError) -> Exception:
    if "NOPERM" in str(error) or "no permissions" in str(error):
        return PermissionRefused(
            "CACHE_LOCAL_ENABLED=true needs the rights +client|id +client|tracking +subscribe +ping"
            f" &{INVALIDATIONS} in Redis: {error}"
        )
    return ConfigurationError(
        f"CACHE_LOCAL_ENABLED=true needs a server with CLIENT TRACKING: {error};"
        " set CACHE_LOCAL_ENABLED=false"
    )
