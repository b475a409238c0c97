"""The least permissions of each role, as Redis ACL rules."""

from collections.abc import Iterator
from typing import Final, Literal

from worker.core.cache_keys import CacheKeys, backfill_key, dead_key
from worker.core.stream_keys import group_root

Role = Literal["worker", "producer", "reader", "operator"]

INVALIDATIONS: Final = "__redis__:invalidate"
"""The channel on which the server sends cache invalidations."""

_PRODUCER: Final = (
    "ping client|setname",
    "select",  # a database number in the URI
    "xadd",
)
_WORKER: Final = (
    *_PRODUCER,  # webhooks and dead letters
    "client|id client|unblock",  # to end its own blocking read when it stops
    "info xinfo|groups xinfo|consumers xinfo|stream",
    "xgroup|create xgroup|delconsumer",
    "xreadgroup xack xpending xclaim xrange xrevrange xlen xtrim",
    "evalsha script|load",
    # Called by scripts, and for bindings and leases:
    "time get mget exists set del expire pttl zadd zrange zrevrange zremrangebyrank",
    "hget hset hmget hdel hvals hgetall",
    "client|tracking subscribe",  # the local cache
    "scan unlink zrem xdel",  # to delete pairing codes that an earlier release cached
)
_READER: Final = (
    "ping client|setname select get mget exists ttl pttl",
    "zrange zrevrange zrangebyscore zrevrangebyscore zcard",
    "hget",  # the account of an instance, by the instance's name
)
_OPERATOR: Final = (
    *_WORKER,
    "type ttl",
    "dbsize",  # for progress bars
    "multi exec",  # backfill adds events and its checkpoint in one step
)
_COMMANDS: Final[dict[Role, tuple[str, ...]]] = {
    "worker": _WORKER,
    "producer": _PRODUCER,
    "reader": _READER,
    "operator": _OPERATOR,
}
_SPECIAL: Final = frozenset("*?[]\\")

_SPACE: Final = "[^!-~\u00c0-\u00bf\u00ff-\U00100000]"
"""Stands for a space, which a rule cannot contain: a class of one byte that, in a key, is a space.

It excludes visible ASCII and every byte of longer characters in UTF-8: `À-¿` are the bytes C3, 80
to C2, BF, and what begins with `ÿ-` reaches up to F4. Control characters are escaped in keys.
"""


def rules(role: Role, *, prefix: str, stream: str, instance: str | None = None) -> list[str]:
    """Return the rules of a role, without a password; `instance` is for a reader."""
    channels = [INVALIDATIONS] if role == "worker" else []
    return [
        "resetkeys",
        "resetchannels",
        *(f"&{channel}" for channel in channels),
        *(f"~{pattern}" for pattern in _patterns(role, CacheKeys(prefix), stream, instance)),
        "-@all",
        *(f"+{command}" for command in dict.fromkeys(" ".join(_COMMANDS[role]).split())),
    ]


def _patterns(role: Role, keys: CacheKeys, stream: str, instance: str | None) -> Iterator[str]:
    if role == "reader" and instance is not None:
        yield _spaced(keys.instance_pattern(instance))
        yield _exact(keys.accounts)
        return
    yield _exact(stream)
    if role != "producer":
        yield _exact(dead_key(stream))
        if role == "operator":
            yield f"{_exact(backfill_key(stream, ''))}*"
        yield f"{_exact(group_root(stream))}*"
        yield _spaced(keys.pattern)


def _exact(key: str) -> str:
    """Return a pattern that matches one key only."""
    return _spaced("".join(f"\\{c}" if c in _SPECIAL else c for c in key))


def _spaced(pattern: str) -> str:
    return pattern.replace(" ", _SPACE)
