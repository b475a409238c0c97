"""Purges documents of Evolution's bot contact at the start, and once more an hour later.

Until all workers are replaced, one of an earlier release may go on writing them.
"""

from typing import Final

import anyio
import structlog

from worker.errors import GroupMissing, PermissionDenied, RedisUnavailable
from worker.ops.logs import error_site
from worker.store.admin.bot_contact_purge import BotContactPurge

log = structlog.get_logger()

AGAIN_AFTER_S: Final = 3600.0

_RETRY_S: Final = 10.0


async def clean_up_bot_contact(
    purge: BotContactPurge, *, again_after_s: float = AGAIN_AFTER_S
) -> None:
    """Purge now and once more later; each is retried while Redis is unavailable.

    An error is logged and does not end the worker: readers refuse the documents all the same.
    """
    try:
        await _purge(purge)
        await anyio.sleep(again_after_s)
        await _purge(purge)
    except PermissionDenied as error:
        log.warning(
            "bot_contact.not_purged",
            error=str(error),
            hint="pairing codes that an earlier release cached stay until they expire: give the "
            "worker's user the rights that `chatwoot-cache acl worker` prints, and restart",
        )
    except Exception as error:  # noqa: BLE001 - a failed purge must not end the worker
        log.error("bot_contact.purge_failed", error=error_site(error))


async def _purge(purge: BotContactPurge) -> None:
    while True:
        try:
            purged = await purge.run()
        except (RedisUnavailable, GroupMissing):
            await anyio.sleep(_RETRY_S)
            continue
        if any(purged):
            log.warning("bot_contact.purged", **purged._asdict())
        return
