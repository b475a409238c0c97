"""Every check of `doctor`, in the order in which it is shown; a new one is added here."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from worker.commands.checks import arriving, cache, group, here, server, stream
from worker.commands.checks.finding import Finding
from worker.commands.checks.subject import Subject

Check = Callable[[Subject], Awaitable[Finding]]

HERE: Final[Mapping[str, Check]] = {
    "settings": here.settings,
    "webhook": here.webhook,
    "arriving": arriving.webhooks,
    "spool": here.spool,
}
"""What can be told without a server."""

SERVER: Final[Mapping[str, Check]] = {
    "version": server.version,
    "role": server.role,
    "memory": server.memory,
    "persistence": server.persistence,
    "clock": server.clock,
}
"""What is asked of each server, of the stream and of the cache."""

STREAM: Final[Mapping[str, Check]] = {
    "stream rights": stream.rights,
    "waiting": stream.waiting,
    "group": group.position,
    "trimming": group.trimming,
    "other groups": group.others,
    "dead letters": stream.letters,
}

CACHE: Final[Mapping[str, Check]] = {
    "cache rights": cache.rights,
    "prefix": cache.prefix,
}
