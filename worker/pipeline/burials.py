"""What is said of entries that were buried: why, and what would let them in."""

import json

import structlog

from worker.core.entry import Entry
from worker.errors import Conflict, Unusable
from worker.logs import Throttle

log = structlog.get_logger()


class BurialLog:
    """One line a minute for each cause, however many entries it buries."""

    def __init__(self) -> None:
        self._throttle = Throttle(60.0)

    def report(self, entry: Entry, error: Unusable) -> None:
        """Say that an entry was buried, unless its cause was named within the minute."""
        details: dict[str, object] = {"reason": error.reason, "error": str(error)}
        cause: tuple[object, ...] = (error.reason,)
        if isinstance(error, Conflict):
            cause = (error.reason, error.inbox, error.instance)
            details |= {"inbox": error.inbox, "instance": error.instance, "bound": error.bound}
            if error.allow:
                details["allow"] = _allowing(error.inbox, error.allow)
        count = self._throttle.ready(cause)
        if count is not None:
            log.warning("entry.buried", id=entry.id.decode(), suppressed=count, **details)


def _allowing(inbox: str, instance: str) -> str:
    """Say which pair in the settings would let an inbox in under an instance."""
    pair = json.dumps({inbox: instance}, ensure_ascii=False)[1:-1]
    return f"add {pair} to CHATWOOT_CACHE_INSTANCES"
