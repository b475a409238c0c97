"""Creates Redis clients from URIs, and translates Redis errors into those of `worker.errors`."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import hiredis
from redis import asyncio as redis, exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from worker.embedded import embedded_server
from worker.errors import ConfigurationError, GroupMissing, PermissionDenied, RedisUnavailable

Client = Any
"""A `redis.asyncio.Redis` whose replies are bytes.

Its own types do not help: they state `bytes | str` for every reply, whatever `decode_responses`
says, so nearly every command would need a cast (redis-py 8.1: one hundred errors of mypy). Adapters
in this package parse replies into types of their own, and tests check them on real servers.
"""

READ_MARGIN_S: Final = 5.0
"""How long a socket waits for a reply beyond the time that a command may block."""

_READ_BYTES: Final = 262_144
"""Bytes read from a socket at once: a batch of entries takes half a megabyte."""

_KINDS: Final = {
    "OOM": "oom",
    "READONLY": "readonly",
    "LOADING": "loading",
    "MASTERDOWN": "masterdown",
    "CLUSTERDOWN": "clusterdown",
    "MISCONF": "misconf",
    "NOREPLICAS": "noreplicas",
    "BUSY": "busy",
    "TRYAGAIN": "tryagain",
    "NOSCRIPT": "noscript",
    "max number of clients": "max_clients",
}
_REFUSED: Final = (
    "NOPERM",
    "WRONGPASS",
    "NOAUTH",
    "invalid password",
    "AUTH",
    # NOPERM from a script: the first from Redis 8 and Valkey, the second from 7.0, both from 6.2.
    "no permissions",
    "can't run this command",
)
_GROUP: Final = ("NOGROUP", "UNBLOCKED", "no such key")
_CLUSTER: Final = ("MOVED", "ASK", "CROSSSLOT")
_CODE = re.compile(rf"\b({'|'.join((*_KINDS, *_REFUSED, *_GROUP, *_CLUSTER))})\b")

_CLOSED: Final = "the handler is closed"
"""The error of uvloop if the server closed the connection before a command was sent."""


def create_client(uri: str, *, block_s: float = 0.0) -> Client:
    """Return a client that connects on first use; `block_s` is the longest blocking command.

    The client does not retry: a repeated XREADGROUP would leave the entries of the first one
    pending. RESP2, which all proxies support, is the default; replies have the same shape in RESP3
    (`?protocol=3` in the URI).
    """
    client = redis.Redis.from_url(
        _resolve(uri),
        protocol=2,
        legacy_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=block_s + READ_MARGIN_S,
        socket_connect_timeout=READ_MARGIN_S,
        socket_read_size=_READ_BYTES,
    )
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_HiredisPacking, pool.connection_class), {})
    return client


class _HiredisPacking:
    """Packs commands with hiredis, which redis-py does in its synchronous client only.

    Packing in Python took a third of the worker's time.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return a command in wire format; the first argument may be two words."""
        name, *rest = args
        words = name.split() if isinstance(name, str) else (name,)
        return [hiredis.pack_command((*words, *rest))]


@asynccontextmanager
async def open_client(uri: str) -> AsyncIterator[Client]:
    """Open a client for a command; raises unless an embedded server is already running."""
    if uri.startswith(embedded_server.SCHEME):
        await embedded_server.require(embedded_server.directory_of(uri))
    async with create_client(uri) as client:
        yield client


def _resolve(uri: str) -> str:
    is_embedded = uri.startswith(embedded_server.SCHEME)
    return embedded_server.uri(embedded_server.directory_of(uri)) if is_embedded else uri


def load_script(client: Client, module_file: str, name: str) -> AsyncScript:
    """Return the script `name`.lua beside a module; it is sent to the server when needed."""
    script: AsyncScript = client.register_script(
        Path(module_file).with_name(f"{name}.lua").read_text()
    )
    return script


@asynccontextmanager
async def translate_errors(client: Client) -> AsyncIterator[None]:
    """Translate Redis errors by their code, which scripts wrap differently in each version.

    After `RedisUnavailable` idle connections are closed: they may lead to a server that was
    demoted meanwhile. Unknown errors are defects of ours, and are raised unchanged.
    """
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        translated = _translate(error)
        if isinstance(translated, RedisUnavailable):
            await _close_idle(client)
        raise translated from error
    except RuntimeError as error:
        if _CLOSED not in str(error):
            raise
        await _close_idle(client)
        raise RedisUnavailable("connection", _describe(error)) from error


async def _close_idle(client: Client) -> None:
    """Close idle connections without waiting for the server.

    The pool's own method closes them in concurrent tasks, where the cancellation of one task
    is raised by all others.
    """
    for connection in list(client.connection_pool._available_connections):  # noqa: SLF001  (see above)
        await connection.disconnect(nowait=True)


def _translate(error: exceptions.RedisError | OSError) -> Exception:
    text = _describe(error)
    code = _code(error, text)
    if isinstance(error, exceptions.AuthenticationError) or code in _REFUSED:
        return PermissionDenied(
            f"Redis refuses us: {text.rstrip('.')}. Check user, password and ACL rights in the URI"
        )
    if code in _KINDS:
        return RedisUnavailable(_KINDS[code], text)
    if code in _GROUP:
        return GroupMissing(text)
    if code in _CLUSTER:
        return ConfigurationError(f"Redis Cluster is not supported in this version: {text}")
    if isinstance(error, exceptions.TimeoutError):
        return RedisUnavailable("timeout", text)
    if isinstance(error, exceptions.ConnectionError | exceptions.InvalidResponse | OSError):
        return RedisUnavailable("connection", text)
    return error


def _code(error: Exception, text: str) -> str:
    """Return the first known code; the text is searched only if the error's own code is ERR."""
    own = getattr(error, "status_code", None)
    match = _CODE.search(text if own in (None, "ERR") else own)
    return match[1] if match else ""


def _describe(error: Exception) -> str:
    """Return an error's first line, which contains no values and no passwords."""
    return (str(error) or type(error).__name__).splitlines()[0]
