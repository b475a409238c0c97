"""What is said of entries that were buried: why, and the command that would let them in."""

from typing import Final

import structlog

from worker.core.binding_rules import bind_command
from worker.core.stream_entry import Entry
from worker.errors import BindingConflict, UnknownInbox, UnusableEntry
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_ANY_INSTANCE: Final = "INSTANCE"
"""Where only the operator can know the name."""

_OTHER_INSTALLATION: Final = (
    "of another Chatwoot on this Redis? Then give its worker another CACHE_REDIS_PREFIX_KEY"
)


class DeadLetterLog:
    """One line a minute for each cause, however many entries it buries; conflicts are counted."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self._throttle = LogThrottle(60.0)

    def report(self, entry: Entry, error: UnusableEntry) -> None:
        """Say that an entry was buried, unless its cause was named within the minute."""
        details: dict[str, object] = {"reason": error.reason, "error": str(error)}
        cause: tuple[object, ...] = (error.reason,)
        if isinstance(error, UnknownInbox):
            cause = (error.reason, error.inbox)
            details |= {"inbox": error.inbox, "allow": _placing(error)}
        if isinstance(error, BindingConflict):
            cause = (error.reason, error.inbox, error.instance)
            details |= _sides(error)
            if self._metrics:
                self._metrics.count_conflict(error.inbox, error.instance, error.bound)
        count = self._throttle.ready(cause)
        if count is not None:
            log.warning("entry.buried", id=entry.id.decode(), suppressed=count, **details)


def _placing(error: UnknownInbox) -> str:
    return _then_replay(bind_command(error.inbox, error.allow or _ANY_INSTANCE), error)


def _sides(error: BindingConflict) -> dict[str, object]:
    """Name both sides, and what would let the one in."""
    details: dict[str, object] = {
        "inbox": error.inbox,
        "instance": error.instance,
        "bound": error.bound,
    }
    if error.instance is None:
        return details | {"allow": "nothing: see to the secrets in CHATWOOT_CACHE_WEBHOOK_SECRETS"}
    if error.fixed:
        return details | {"allow": _settings(error)}
    commands = [f"chatwoot-cache bindings drop {inbox}" for inbox in error.release]
    commands.append(bind_command(error.inbox, error.allow or _ANY_INSTANCE))
    return details | {
        "allow": _then_replay(" && ".join(commands), error),
        "otherwise": _OTHER_INSTALLATION,
    }


def _settings(error: BindingConflict) -> str:
    """Say that only the settings can change what the settings bind."""
    return (
        f"change CHATWOOT_CACHE_INSTANCES, which binds {error.bound!r}, restart the workers, then: "
        f"chatwoot-cache dead replay --reason {error.reason}"
    )


def _then_replay(command: str, error: UnusableEntry) -> str:
    return f"{command} && chatwoot-cache dead replay --reason {error.reason}"
