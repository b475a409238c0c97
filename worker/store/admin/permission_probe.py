"""What the worker must be allowed to do, each as a command that changes nothing.

Each has the keys that matter and fails, or finds nothing, for a reason that a server looks at
after the right: an id that no stream takes, a group and a key that nobody has.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from worker.core.cache_keys import CacheKeys, dead_key
from worker.core.stream_keys import group_root, spool_key
from worker.core.tooling.acl_rules import INVALIDATIONS

Command = tuple[str | int, ...]

_PURGE = "a worker without it cannot delete pairing codes of an earlier release, and says so"

UNTRIED: Final[Mapping[str, str]] = {
    "ping": "answered, or the server counts as away",
    "select": "sent while connecting",
    "client|setname": "sent while connecting, where the URI has a name",
    "client|unblock": "a worker without it stops a little later",
    "info": "a worker without it does not say which server it is",
    "xdel": _PURGE,
    "xrevrange": _PURGE,
    "scan": _PURGE,
    "unlink": _PURGE,
    "zrem": _PURGE,
}
"""What `acl` grants a worker and nobody need try, each with the reason."""

_NOBODY = "chatwoot-cache-doctor"
_NO_SCRIPT = "0" * 40
_WITH_SUBCOMMANDS = ("CLIENT", "SCRIPT", "XGROUP", "XINFO")


def name(command: Command) -> str:
    """Return what a rule calls a command, as in `+xgroup|create`."""
    words = 2 if command[0] in _WITH_SUBCOMMANDS else 1
    return "|".join(str(word).lower() for word in command[:words])


def rule(name: str) -> str:
    """Return what grants a command; a channel is a right of its own."""
    return f"+{name} &{INVALIDATIONS}" if name == "subscribe" else f"+{name}"


def of_stream(key: str, group: str) -> Iterator[Command]:
    """Yield the commands on the stream and its dead letters."""
    dead = dead_key(key)
    yield ("XADD", key, "0-0", "payload", "")
    yield ("XADD", dead, "0-0", "payload", "")
    yield ("XREADGROUP", "GROUP", _NOBODY, _NOBODY, "COUNT", 1, "STREAMS", key, "0")
    yield ("XACK", key, _NOBODY, "0-0")
    yield ("XPENDING", key, _NOBODY)
    yield ("XCLAIM", key, _NOBODY, _NOBODY, 0, "0-0")
    yield ("XGROUP", "CREATE", key, group, "no id")
    yield ("XGROUP", "DELCONSUMER", key, _NOBODY, _NOBODY)
    yield ("XINFO", "STREAM", key)
    yield ("XINFO", "GROUPS", key)
    yield ("XINFO", "CONSUMERS", key, _NOBODY)
    yield ("XLEN", key)
    yield ("XRANGE", key, "0-0", "0-0")
    yield ("XRANGE", dead, "0-0", "0-0")
    yield ("XTRIM", key, "MINID", "0")
    yield ("XTRIM", dead, "MINID", "0")
    # No group's: a lease is one, and the position.
    absent = f"{group_root(key)}{_NOBODY}"
    yield ("GET", absent)
    yield ("SET", absent, "", "XX", "EX", 1)
    yield ("DEL", absent)
    yield ("EXPIRE", absent, 1)
    yield ("HMGET", absent, "field")
    yield ("HSET", absent, "field", "value", "field")
    # No spool's record.
    unrecorded = spool_key(key, _NOBODY)
    yield ("GET", unrecorded)
    yield ("SET", unrecorded, "", "XX", "EX", 1)
    yield ("EXPIRE", unrecorded, 1)
    yield from _scripts()


def of_cache(keys: CacheKeys) -> Iterator[Command]:
    """Yield the commands on the cache's keys."""
    # No instance's: `%` cannot begin an escaped name.
    absent = f"{keys.bindings}:{_NOBODY}"
    yield ("GET", absent)
    yield ("MGET", absent)
    yield ("EXISTS", absent)
    yield ("SET", absent, "", "XX", "EX", 1)
    yield ("EXPIRE", absent, 1)
    yield ("ZADD", absent, "XX", 1, "1")
    yield ("ZRANGE", absent, 0, 0)
    yield ("ZREVRANGE", absent, 0, 0)
    yield ("ZREMRANGEBYRANK", absent, 0, 0)
    yield ("PTTL", absent)
    yield ("HGET", absent, "field")
    yield ("HGETALL", absent)
    yield ("HVALS", absent)
    yield ("HDEL", absent, "field")
    # A field without a value.
    yield ("HSET", absent, "field", "value", "field")
    yield from _scripts()


def of_memory() -> Iterator[Command]:
    """Yield what memory in front of the cache needs to be told of writes."""
    yield ("CLIENT", "ID")
    yield ("CLIENT", "TRACKING", "OFF")
    yield ("SUBSCRIBE", INVALIDATIONS)


def _scripts() -> Iterator[Command]:
    yield ("EVALSHA", _NO_SCRIPT, 0)
    yield ("SCRIPT", "LOAD", "return 1")
    yield ("TIME",)
