"""Every check of `doctor`, in the order in which it is shown; a new check is added here."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from worker.cli.checks import (
    cache_check,
    group_check,
    local_check,
    server_check,
    stream_check,
    webhook_check,
)
from worker.cli.checks.check_result import CheckResult
from worker.cli.context import CheckContext

Check = Callable[[CheckContext], Awaitable[CheckResult]]

LOCAL: Final[Mapping[str, Check]] = {
    "settings": local_check.settings,
    "webhook": local_check.webhook,
    "arriving": webhook_check.webhooks,
    "spool": local_check.spool,
}
"""Checks that need no Redis server."""

SERVER: Final[Mapping[str, Check]] = {
    "version": server_check.version,
    "role": server_check.role,
    "memory": server_check.memory,
    "persistence": server_check.persistence,
    "clock": server_check.clock,
}
"""Checks of each server, the stream's and the cache's."""

STREAM: Final[Mapping[str, Check]] = {
    "stream rights": stream_check.permissions,
    "waiting": stream_check.blocking_read,
    "group": group_check.position,
    "trimming": group_check.trimming,
    "other groups": group_check.others,
    "dead letters": stream_check.dead_letters,
}

CACHE: Final[Mapping[str, Check]] = {
    "cache rights": cache_check.permissions,
    "prefix": cache_check.prefix,
}
