"""Every check of `doctor`, in the order in which it is shown; a new one is added here."""

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
from worker.cli.checks.check_context import CheckContext
from worker.cli.checks.check_result import CheckResult

Check = Callable[[CheckContext], Awaitable[CheckResult]]

HERE: Final[Mapping[str, Check]] = {
    "settings": local_check.settings,
    "webhook": local_check.webhook,
    "arriving": webhook_check.webhooks,
    "spool": local_check.spool,
}
"""What can be told without a server."""

SERVER: Final[Mapping[str, Check]] = {
    "version": server_check.version,
    "role": server_check.role,
    "memory": server_check.memory,
    "persistence": server_check.persistence,
    "clock": server_check.clock,
}
"""What is asked of each server, of the stream and of the cache."""

STREAM: Final[Mapping[str, Check]] = {
    "stream rights": stream_check.rights,
    "waiting": stream_check.waiting,
    "group": group_check.position,
    "trimming": group_check.trimming,
    "other groups": group_check.others,
    "dead letters": stream_check.letters,
}

CACHE: Final[Mapping[str, Check]] = {
    "cache rights": cache_check.rights,
    "prefix": cache_check.prefix,
}
