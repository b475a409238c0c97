"""From a URI to clients, and from Redis' errors to ours."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import hiredis
from redis import asyncio as redis, exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.embedded import embedded_server
from worker.errors import ConfigurationError, GroupMissing, PermissionRefused, RedisUnavailable

Client = Any
"""A `redis.asyncio.Redis`. Its own types call every reply bytes or text, awaited or not:
adapters state what comes back, and tests hold them to it."""

READ_MARGIN_S: Final = 5.0
"""What a socket waits beyond the time a command may take on the server."""

_READ_BYTES: Final = 262_144
"""What is taken from a socket at once: a batch of entries is half a megabyte."""

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
    # How scripts say NOPERM: the first from Redis 8 and Valkey, the second on 7.0, both on 6.2.
    "no permissions",
    "can't run this command",
)
_GROUP: Final = ("NOGROUP", "UNBLOCKED", "no such key")
_CLOSED: Final = "the handler is closed"
"""How uvloop says that the server cut the connection before a command was sent."""
_CLUSTER: Final = ("MOVED", "ASK", "CROSSSLOT")
_CODE = re.compile(rf"\b({'|'.join((*_KINDS, *_REFUSED, *_GROUP, *_CLUSTER))})\b")


def create_client(uri: str, *, block_s: float = 0.0) -> Client:
    """Return a client that connects when it is first used.

    It never retries by itself: a repeated XREADGROUP strands the first one's entries.
    Replies have one shape in RESP2 (the default, which every proxy speaks) and RESP3
    (`?protocol=3` in the URI). `block_s` is the longest time that a command may block.
    """
    client = redis.Redis.from_url(
        _resolved(uri),
        protocol=2,
        legacy_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=block_s + READ_MARGIN_S,
        socket_connect_timeout=READ_MARGIN_S,
        socket_read_size=_READ_BYTES,
    )
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_PackingInC, pool.connection_class), {})
    return client


class _PackingInC:
    """Packs commands with hiredis, as the library does only in its synchronous client.

    Packing in Python took a third of the worker's time.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return a command in the form of the wire; a first argument may be two words."""
        name, *rest = args
        words = name.split() if isinstance(name, str) else (name,)
        return [hiredis.pack_command((*words, *rest))]


@asynccontextmanager
async def open_client(uri: str) -> AsyncIterator[Client]:
    """Give a command its client; a server of our own must be running already."""
    if uri.startswith(embedded_server.SCHEME):
        await embedded_server.require(embedded_server.directory_of(uri))
    async with create_client(uri) as client:
        yield client


def _resolved(uri: str) -> str:
    is_own = uri.startswith(embedded_server.SCHEME)
    return embedded_server.uri(embedded_server.directory_of(uri)) if is_own else uri


def load_script(client: Client, module_file: str, name: str) -> Any:
    """Return the script `name` that lies beside a module; the server loads it when it must."""
    return client.register_script(Path(module_file).with_name(f"{name}.lua").read_text())


@asynccontextmanager
async def translate_errors(client: Client) -> AsyncIterator[None]:
    """Turn Redis' errors into ours: by their code, which scripts wrap in versions' own ways.

    After an outage the next command has a new connection: the old one may lead to a server that
    was demoted meanwhile. An error that has no name here is a defect of ours, and passes as it is.
    """
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        ours = _translate(error)
        if isinstance(ours, RedisUnavailable):
            await _leave_idle(client)
        raise ours from error
    except RuntimeError as error:
        if _CLOSED not in str(error):
            raise
        await _leave_idle(client)
        raise RedisUnavailable("connection", _describe(error)) from error


async def _leave_idle(client: Client) -> None:
    """Close the connections that nobody uses, without waiting for the other side.

    The pool's own way waits for each in several tasks at once, where the cancellation of one
    comes out of all others, as if they had been cancelled.
    """
    for connection in list(client.connection_pool._available_connections):  # noqa: SLF001  (as said)
        await connection.disconnect(nowait=True)


def _translate(error: exceptions.RedisError | OSError) -> Exception:
    text = _describe(error)
    code = _code(error, text)
    if isinstance(error, exceptions.AuthenticationError) or code in _REFUSED:
        return PermissionRefused(
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
    """Return the first code we know, looked for in the text only where the error's own is ERR."""
    own = getattr(error, "status_code", None)
    match = _CODE.search(text if own in (None, "ERR") else own)
    return match[1] if match else ""


def _describe(error: Exception) -> str:
    """Return an error's first line, which names no key's value and no password."""
    return (str(error) or type(error).__name__).splitlines()[0]
