"""Reads an instance's conversations from Chatwoot, and adds them to the stream as events.

Messages are read newest first. Each page is added in one transaction with the checkpoint of its
conversation, so a backfill that is resumed after a crash repeats at most one page.
How events are dated, and why none of them undoes a webhook: `core.rest_to_webhook`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.chatwoot.paginator import HistoryPaginator
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import ConversationSnapshot
from worker.core.timestamps import to_us
from worker.errors import UpstreamError
from worker.store.cache.first_messages import FirstMessages
from worker.store.stream.backfill_checkpoint import DONE, BackfillCheckpoint


@dataclass(slots=True)
class BackfillCounts:
    """What a backfill has read so far; `lines` are Chatwoot's activity messages, left out."""

    conversations: int = 0
    messages: int = 0
    lines: int = 0
    gone: int = 0


@dataclass(slots=True)
class Backfiller:
    """Backfill of one instance: messages since `since_us`, microseconds since 1970.

    `reached` is the lowest message id read of each conversation, `DONE` where all were read.
    """

    pages: HistoryPaginator
    checkpoint: BackfillCheckpoint
    first_messages: FirstMessages
    instance: str
    since_us: int
    reached: dict[int, int] = field(default_factory=dict)
    on_progress: Callable[[], None] = lambda: None
    counts: BackfillCounts = field(default_factory=BackfillCounts)

    async def read_inbox(self, inbox: Inbox) -> None:
        """Read every conversation of an inbox.

        A conversation that becomes active meanwhile moves to an earlier page and may be missed,
        so the pages that may have changed are read again until they hold nothing new.
        """
        since_us = self.since_us
        has_new = True
        while has_new:
            has_new = False
            latest_us = 0
            async for snapshot in self.pages.conversations(inbox, since_us=since_us):
                activity_us = snapshot.conversation.activity_us
                latest_us = latest_us or activity_us  # the first one has the latest activity
                if 0 < activity_us < self.since_us:
                    continue
                if self.reached.get(snapshot.display_id) != DONE:
                    has_new = True
                    await self._read(snapshot)
                    self.on_progress()
            since_us = max(since_us, latest_us)

    async def read_one(self, display_id: int, inboxes: Mapping[int, Inbox]) -> bool:
        """Read one conversation; returns whether one of these inboxes has it."""
        snapshot = await self.pages.find(display_id, inboxes)
        if snapshot is not None and self.reached.get(display_id) != DONE:
            await self._read(snapshot)
        return snapshot is not None

    async def _read(self, snapshot: ConversationSnapshot) -> None:
        """Read a conversation's messages; one that is deleted meanwhile is only counted."""
        try:
            await self._read_messages(snapshot)
        except UpstreamError as error:
            if error.kind != "missing":
                raise
            self.counts.gone += 1
            await self._save(snapshot.display_id, [], DONE)

    async def _read_messages(self, snapshot: ConversationSnapshot) -> None:
        before = self.reached.get(snapshot.display_id)
        has_entries = before is not None
        first_id: int | None = None
        async for page in self.pages.messages(snapshot, before=before):
            recent = [m for m in page.messages if to_us(m.created_at) >= self.since_us]
            sent = [m for m in reversed(recent) if not m.is_activity]
            entries = page.snapshot.message_entries(sent, self.instance)
            has_entries = has_entries or bool(entries)
            is_last = page.is_last or not recent
            if is_last and not has_entries:
                entries = [page.snapshot.conversation_entry(self.instance)]
            self.counts.messages += len(sent)
            self.counts.lines += len(recent) - len(sent)
            await self._save(snapshot.display_id, entries, DONE if is_last else page.lowest_id)
            first_id = min((message.id for message in sent), default=first_id)
            if is_last:
                self.counts.conversations += 1
                if first_id is not None and len(recent) == len(page.messages):
                    await self.first_messages.put(self.instance, snapshot.display_id, first_id)
                return

    async def _save(
        self, display_id: int, entries: Sequence[Mapping[str, bytes]], reached: int
    ) -> None:
        await self.checkpoint.add(entries, display_id, reached)
        self.reached[display_id] = reached
