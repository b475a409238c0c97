"""The minimal permissions of each role, as Redis ACL rules.

A command that the program starts to use must be added here.
"""

from collections.abc import Iterator
from typing import Final, Literal

from worker.core.cache_keys import CacheKeys, backfill_key, dead_key
from worker.core.stream_keys import group_key_prefix, spool_key

Role = Literal["worker", "producer", "reader", "operator"]

INVALIDATIONS: Final = "__redis__:invalidate"
"""The channel on which the server reports writes to clients that track keys."""

_CONNECTION: Final = ("ping", "select", "client|setname")
_STREAM: Final = (
    *("xadd", "xack", "xpending", "xclaim", "xreadgroup", "xrange", "xlen", "xtrim"),
    *(
        "xgroup|create",
        "xgroup|setid",
        "xgroup|delconsumer",
        "xinfo|groups",
        "xinfo|consumers",
        "xinfo|stream",
    ),
    *("client|id", "client|unblock", "info"),  # end a blocking read at shutdown; log the server
)
_CACHE: Final = (
    *("evalsha", "script|load", "time"),
    *("get", "mget", "exists", "set", "del", "expire", "pttl"),
    *("zadd", "zremrangebyrank", "zrange", "zrevrange"),
    *("hget", "hset", "hmget", "hdel", "hvals", "hgetall"),
)
_LOCAL_TIER: Final = ("client|id", "client|tracking", "subscribe")
_BOT_CONTACT_PURGE: Final = ("xdel", "xrevrange", "scan", "unlink", "zrem")
_WORKER: Final = (*_CONNECTION, *_STREAM, *_CACHE, *_LOCAL_TIER, *_BOT_CONTACT_PURGE)
_READER: Final = (
    *_CONNECTION,
    *("get", "mget", "exists", "ttl", "pttl"),
    *("zrange", "zrevrange", "zrangebyscore", "zrevrangebyscore", "zcard"),
    "hget",  # the account of an instance; unlike HGETALL, it lists no other instances
)
_PROGRESS_AND_AUDIT: Final = ("dbsize", "type", "ttl")
_BACKFILL: Final = ("multi", "exec")
_COMMANDS: Final[dict[Role, tuple[str, ...]]] = {
    "worker": _WORKER,
    "producer": (*_CONNECTION, "xadd"),
    "reader": _READER,
    "operator": (*_WORKER, *_PROGRESS_AND_AUDIT, *_BACKFILL),
}
_SPECIAL: Final = frozenset("*?[]\\")

_SPACE: Final = "[^!-~\u00c0-\u00bf\u00ff-\U00100000]"
"""A glob class that matches a space: ACL rules cannot contain one.

It excludes visible ASCII and all bytes of longer UTF-8 characters: `À-¿` are the bytes C3, 80 to
C2, BF, and the range that begins with `ÿ-` ends at F4. Control characters do not occur: keys escape
them.
"""


def rules(role: Role, *, prefix: str, stream: str, instance: str | None = None) -> list[str]:
    """Return the rules of a role, without a password; `instance` restricts a reader."""
    patterns = _patterns(role, CacheKeys(prefix), stream, instance)
    commands = dict.fromkeys(_COMMANDS[role])
    channels = (INVALIDATIONS,) if role == "worker" else ()
    return [
        "resetkeys",
        "resetchannels",
        *(f"&{channel}" for channel in channels),
        *(f"~{pattern.replace(' ', _SPACE)}" for pattern in patterns),
        "-@all",
        *(f"+{command}" for command in commands),
    ]


def _patterns(role: Role, keys: CacheKeys, stream: str, instance: str | None) -> Iterator[str]:
    if role == "reader" and instance is not None:
        yield keys.instance_pattern(instance)
        yield _exact(keys.accounts)
        return
    yield _exact(stream)
    if role != "producer":
        yield _exact(dead_key(stream))
        if role == "operator":
            yield f"{_exact(backfill_key(stream, ''))}*"
        yield f"{_exact(group_key_prefix(stream))}*"
        # The script that adds rows of a spool records the last one.
        yield f"{_exact(spool_key(stream, ''))}*"
        yield keys.pattern


def _exact(key: str) -> str:
    """Return a pattern that matches one key only."""
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in key)
