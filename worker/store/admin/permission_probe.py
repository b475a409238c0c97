"""The commands that the worker must be allowed to run, in forms that change nothing.

Each uses the real keys and fails, or finds nothing, only after the server has checked the
permission: an entry id that no stream accepts, a group and a key that do not exist.
"""

from collections.abc import Iterator

from worker.core.cache_keys import CacheKeys, dead_key
from worker.core.operations.acl_rules import INVALIDATIONS
from worker.core.stream_keys import group_key_prefix, spool_key

Command = tuple[str | int, ...]

_NO_SUCH = "chatwoot-cache-doctor"
_NO_SCRIPT = "0" * 40
_WITH_SUBCOMMANDS = ("CLIENT", "SCRIPT", "XGROUP", "XINFO")


def name(command: Command) -> str:
    """Return the name of a command in ACL rules, such as `xgroup|create`."""
    words = 2 if command[0] in _WITH_SUBCOMMANDS else 1
    return "|".join(str(word).lower() for word in command[:words])


def rule(name: str) -> str:
    """Return the ACL rule that permits a command; SUBSCRIBE also needs the channel."""
    return f"+{name} &{INVALIDATIONS}" if name == "subscribe" else f"+{name}"


def of_stream(key: str, group: str) -> Iterator[Command]:
    """Yield the commands on the stream and its dead letters."""
    dead = dead_key(key)
    yield ("XADD", key, "0-0", "payload", "")
    yield ("XADD", dead, "0-0", "payload", "")
    yield ("XREADGROUP", "GROUP", _NO_SUCH, _NO_SUCH, "COUNT", 1, "STREAMS", key, "0")
    yield ("XACK", key, _NO_SUCH, "0-0")
    yield ("XPENDING", key, _NO_SUCH)
    yield ("XCLAIM", key, _NO_SUCH, _NO_SUCH, 0, "0-0")
    yield ("XGROUP", "CREATE", key, group, "no id")
    yield ("XGROUP", "SETID", key, _NO_SUCH, "0-0")
    yield ("XGROUP", "DELCONSUMER", key, _NO_SUCH, _NO_SUCH)
    yield ("XINFO", "STREAM", key)
    yield ("XINFO", "GROUPS", key)
    yield ("XINFO", "CONSUMERS", key, _NO_SUCH)
    yield ("XLEN", key)
    yield ("XRANGE", key, "0-0", "0-0")
    yield ("XRANGE", dead, "0-0", "0-0")
    yield ("XTRIM", key, "MINID", "0")
    yield ("XTRIM", dead, "MINID", "0")
    # Below the keys of groups (position and leases), but of no group.
    absent = f"{group_key_prefix(key)}{_NO_SUCH}"
    yield ("GET", absent)
    yield ("SET", absent, "", "XX", "EX", 1)
    yield ("DEL", absent)
    yield ("EXPIRE", absent, 1)
    yield ("HMGET", absent, "field")
    yield ("HSET", absent, "field", "value", "field")
    yield from _on_spool_record(spool_key(key, _NO_SUCH))
    yield from _scripts()


def _on_spool_record(absent: str) -> Iterator[Command]:
    yield ("GET", absent)
    yield ("SET", absent, "", "XX", "EX", 1)
    yield ("EXPIRE", absent, 1)


def of_cache(keys: CacheKeys) -> Iterator[Command]:
    """Yield the commands on the cache's keys."""
    # Of no instance: an escaped name cannot begin with `%`.
    absent = f"{keys.bindings}:{_NO_SUCH}"
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
    # Fails: a field without a value.
    yield ("HSET", absent, "field", "value", "field")
    yield from _scripts()


def of_memory() -> Iterator[Command]:
    """Yield the commands that the local tier needs for invalidations."""
    yield ("CLIENT", "ID")
    yield ("CLIENT", "TRACKING", "OFF")
    yield ("SUBSCRIBE", INVALIDATIONS)


def _scripts() -> Iterator[Command]:
    yield ("EVALSHA", _NO_SCRIPT, 0)
    yield ("SCRIPT", "LOAD", "return 1")
    yield ("TIME",)
