"""Log lines of dead entries: the reason, and the command that lets such entries in."""

from typing import Final

import structlog

from worker.core.binding_rules import bind_command
from worker.core.stream_entry import Entry
from worker.errors import BindingConflict, UnknownInbox, UnusableEntry
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_ANY_INSTANCE: Final = "INSTANCE"
"""Placeholder for a name that only the operator knows."""

_OTHER_INSTALLATION: Final = (
    "of another Chatwoot on this Redis? Then give its worker another CACHE_REDIS_PREFIX_KEY"
)


class DeadLetterLog:
    """Logs one line a minute for each cause; counts conflicts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._throttle = LogThrottle(60.0)

    def report(self, entry: Entry, error: UnusableEntry) -> None:
        """Log a buried entry, unless its cause was logged within the last minute."""
        details: dict[str, object] = {"reason": error.reason, "error": str(error)}
        cause: tuple[object, ...] = (error.reason,)
        if isinstance(error, UnknownInbox):
            cause = (error.reason, error.inbox)
            command = bind_command(error.inbox, error.allow or _ANY_INSTANCE)
            details |= {"inbox": error.inbox, "allow": _then_replay(command, error)}
        if isinstance(error, BindingConflict):
            cause = (error.reason, error.inbox, error.instance)
            details |= _conflict_details(error)
            self._metrics.count_conflict(error.inbox, error.instance, error.bound)
        suppressed = self._throttle.ready(cause)
        if suppressed is not None:
            log.warning("entry.buried", id=entry.id.decode(), suppressed=suppressed, **details)


def _conflict_details(error: BindingConflict) -> dict[str, object]:
    """Name both sides of a conflict and the commands that let the entry in."""
    details: dict[str, object] = {
        "inbox": error.inbox,
        "instance": error.instance,
        "bound": error.bound,
    }
    if error.instance is None:
        return details | {"allow": "nothing: check the secrets in CHATWOOT_CACHE_WEBHOOK_SECRETS"}
    if error.fixed:
        change = (
            f"change CHATWOOT_CACHE_INSTANCES, which binds {error.bound!r}, restart the workers, "
            f"then: chatwoot-cache dead replay --reason {error.reason}"
        )
        return details | {"allow": change}
    commands = [f"chatwoot-cache bindings drop {inbox}" for inbox in error.release]
    commands.append(bind_command(error.inbox, error.allow or _ANY_INSTANCE))
    return details | {
        "allow": _then_replay(" && ".join(commands), error),
        "otherwise": _OTHER_INSTALLATION,
    }


def _then_replay(command: str, error: UnusableEntry) -> str:
    return f"{command} && chatwoot-cache dead replay --reason {error.reason}"
