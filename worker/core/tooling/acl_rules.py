"""The least rights that each role needs, as Redis ACL rules.

One line per command, with who needs it: a command that is added to the program is one more here.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from worker.core.cache_keys import CacheKeys, backfill_key, dead_key
from worker.core.stream_keys import group_root

Role = Literal["worker", "producer", "reader", "operator"]

INVALIDATIONS: Final = "__redis__:invalidate"
"""The channel on which the server tells of writes."""

_CONNECTION: Final = (
    "ping",
    "select",  # a database number in the URI
    "client|setname",
)
_WORKER: Final = (
    *_CONNECTION,
    "client|id",  # to end its own read that waits, when told to stop
    "client|unblock",
    "xgroup|create",
    "xgroup|setid",  # of a group that somebody else created ahead of the saved position
    "xgroup|delconsumer",  # of workers that died long ago
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
    "xdel",  # pairing codes, as what follows, where an earlier release cached them
    "xrevrange",
    "scan",
    "unlink",
    "zrem",
    "xtrim",
    "evalsha",
    "script|load",
    "time",  # in scripts, as what follows
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
    "client|id",  # the local tier, as what follows
    "client|tracking",
    "subscribe",
    "info",  # which server it is
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
    "hget",  # the account an instance belongs to; it must be asked for by name
)
_PRODUCER: Final = (*_CONNECTION, "xadd")
_OPERATOR: Final = (
    *_WORKER,
    "dbsize",  # how far a progress bar is
    "type",
    "ttl",
    "multi",  # backfill puts events and how far it has come in one step
    "exec",
)
_COMMANDS: Final[dict[Role, tuple[str, ...]]] = {
    "worker": _WORKER,
    "producer": _PRODUCER,
    "reader": _READER,
    "operator": _OPERATOR,
}
_CHANNELS: Final[dict[Role, tuple[str, ...]]] = {
    "worker": (INVALIDATIONS,),
    "producer": (),
    "reader": (),
    "operator": (),
}
_SPECIAL: Final = frozenset("*?[]\\")

_SPACE: Final = "[^!-~\u00c0-\u00bf\u00ff-\U00100000]"
"""A class of one byte that no name holds but a space: a rule cannot hold one.

Left out are what is visible in ASCII and all bytes of longer characters in UTF-8: `À-¿` are the
bytes C3, 80 to C2, BF, and what begins with `ÿ-` reaches up to F4. Control characters are
escaped in keys.
"""


def rules(role: Role, *, prefix: str, stream: str, instance: str | None = None) -> list[str]:
    """Return the rules of a role, without a password; `instance` is a reader's."""
    patterns = list(_patterns(role, CacheKeys(prefix), stream, instance))
    commands = dict.fromkeys(_COMMANDS[role])
    return [
        "resetkeys",
        "resetchannels",
        *(f"&{channel}" for channel in _CHANNELS[role]),
        *(f"~{pattern}" for pattern in patterns),
        "-@all",
        *(f"+{command}" for command in commands),
    ]


def _patterns(role: Role, keys: CacheKeys, stream: str, instance: str | None) -> Iterator[str]:
    if role == "reader" and instance is not None:
        yield from _spaced([keys.instance_pattern(instance)])
        yield _exact(keys.accounts)
        return
    yield _exact(stream)
    if role != "producer":
        yield _exact(dead_key(stream))
        if role == "operator":
            yield f"{_exact(backfill_key(stream, ''))}*"
        yield f"{_exact(group_root(stream))}*"
        yield from _spaced([keys.pattern])


def _exact(key: str) -> str:
    """Return a pattern that matches one key only."""
    return next(_spaced(["".join(f"\\{c}" if c in _SPECIAL else c for c in key)]))


def _spaced(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield pattern.replace(" ", _SPACE)
