"""The minimal permissions of each role, as Redis ACL rules.

A command that the program starts to use must be added here.
"""

from collections.abc import Iterator
from typing import Final, Literal

from worker.core.cache_keys import CacheKeys, backfill_key, dead_key
from worker.core.stream_keys import group_root

Role = Literal["worker", "producer", "reader", "operator"]

INVALIDATIONS: Final = "__redis__:invalidate"
"""The channel on which the server reports writes to clients that track keys."""

_CONNECTION: Final = (
    "ping",
    "select",  # a database number in the URI
    "client|setname",
)
_WORKER: Final = (
    *_CONNECTION,
    "client|id",  # to end its own blocking read at shutdown
    "client|unblock",
    "xgroup|create",
    "xgroup|delconsumer",  # of workers that stopped long ago
    "xreadgroup",
    "xinfo|groups",
    "xinfo|consumers",
    "xinfo|stream",
    "xpending",
    "xclaim",
    "xrange",
    "xlen",
    "xack",
    "xadd",  # the webhook, and dead letters
    "xdel",  # this and the next four: pairing codes that an earlier release cached
    "xrevrange",
    "scan",
    "unlink",
    "zrem",
    "xtrim",
    "evalsha",
    "script|load",
    "time",  # this and the following: in scripts
    "get",
    "mget",
    "exists",
    "set",
    "del",  # of a lease
    "expire",
    "zadd",
    "zremrangebyrank",
    "hget",
    "hset",
    "hmget",
    "hdel",
    "hvals",
    "hgetall",  # bindings
    "zrange",
    "zrevrange",
    "pttl",
    "client|id",  # this and the next two: the local tier
    "client|tracking",
    "subscribe",
    "info",  # logged at start
)
_READER: Final = (
    *_CONNECTION,
    "get",
    "mget",
    "exists",
    "ttl",
    "pttl",
    "zrange",
    "zrevrange",
    "zrangebyscore",
    "zrevrangebyscore",
    "zcard",
    "hget",  # the account of an instance; HGET reads no other instance's name
)
_PRODUCER: Final = (*_CONNECTION, "xadd")
_OPERATOR: Final = (
    *_WORKER,
    "dbsize",  # progress bars
    "type",
    "ttl",
    "multi",  # backfill adds events and its checkpoint in one transaction
    "exec",
)
_COMMANDS: Final[dict[Role, tuple[str, ...]]] = {
    "worker": _WORKER,
    "producer": _PRODUCER,
    "reader": _READER,
    "operator": _OPERATOR,
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
        yield f"{_exact(group_root(stream))}*"
        yield keys.pattern


def _exact(key: str) -> str:
    """Return a pattern that matches one key only."""
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in key)
