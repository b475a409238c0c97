"""When the bot contact's documents are purged: at the start, and once more an hour later.

A worker of an earlier release may go on writing them while the workers are replaced one by one.
"""

from typing import Final, Protocol

import anyio
import structlog

from worker.errors import GroupMissing, PermissionRefused, RedisUnavailable

log = structlog.get_logger()

AGAIN_AFTER_S: Final = 3600.0

_RETRY_S: Final = 10.0


class Purged(Protocol):
    """How much was deleted."""

    @property
    def documents(self) -> int:
        """Documents of the cache."""

    @property
    def entries(self) -> int:
        """Entries of the stream."""

    @property
    def dead_letters(self) -> int:
        """Dead letters."""


class BotPurge(Protocol):
    """What deletes them."""

    async def run(self) -> Purged:
        """Delete all of them; may be repeated."""


async def purge_twice(purge: BotPurge, *, again_after_s: float = AGAIN_AFTER_S) -> None:
    """Purge now and once more later; while Redis is unavailable, each is tried again.

    Where the worker's user lacks the rights, that is logged, and readers refuse the documents.
    """
    try:
        await _purge(purge)
        await anyio.sleep(again_after_s)
        await _purge(purge)
    except PermissionRefused as error:
        log.warning(
            "bot_contact.not_purged",
            error=str(error),
            hint="pairing codes that an earlier release cached stay until they expire: give the "
            "worker's user the rights that `chatwoot-cache acl worker` prints, and restart",
        )


async def _purge(purge: BotPurge) -> None:
    while True:
        try:
            purged = await purge.run()
        except (RedisUnavailable, GroupMissing):
            await anyio.sleep(_RETRY_S)
            continue
        if any((purged.documents, purged.entries, purged.dead_letters)):
            log.warning(
                "bot_contact.purged",
                documents=purged.documents,
                entries=purged.entries,
                dead_letters=purged.dead_letters,
            )
        return
