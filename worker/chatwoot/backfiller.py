"""Reads an instance's conversations from Chatwoot, and puts them on the stream as events.

A conversation is read before its messages, newest first, and each page goes on the stream in one
step with the note of how far it has come: whoever goes on after a crash repeats one page at most.
What an event is dated by, and why no webhook is undone by it: `core.rest_to_webhook`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from worker.core import rest_to_webhook
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import MESSAGES_A_PAGE, RestConversation, RestMessage
from worker.core.timestamps import to_us
from worker.errors import UpstreamError

_US: Final = 1_000_000
_DONE: Final = 0


class Page(Protocol):
    """A page of conversations."""

    @property
    def conversations(self) -> Sequence[RestConversation]:
        """The conversations, those with the latest activity first."""

    @property
    def count(self) -> int | None:
        """How many there are on all pages, where Chatwoot says so."""


class Source(Protocol):
    """One account of Chatwoot's; everything raises `UpstreamError`."""

    async def conversations(self, inbox_id: int, page: int) -> Page:
        """Return a page of an inbox's conversations, the first page being 1."""

    async def conversation(self, display_id: int) -> RestConversation:
        """Return one conversation."""

    async def messages(self, display_id: int, *, before: int | None = None) -> list[RestMessage]:
        """Return the newest messages of a conversation, or the newest before an id."""


class Sink(Protocol):
    """The stream, and the note of how far each conversation has come."""

    async def snapshot_id(self) -> str:
        """Return an id for entries of what is asked for now."""

    async def put(
        self, entries: Sequence[Mapping[str, bytes]], display_id: int, reached: int
    ) -> None:
        """Add entries, and note the lowest message id reached, or 0 for all."""


class Starts(Protocol):
    """Where it is noted that the cache knows a conversation from its start."""

    async def put(self, instance: str, display_id: int, message_id: int) -> None:
        """Note a conversation's first message."""


class _Listed(NamedTuple):
    """A conversation of a page, and when the page was asked for."""

    conversation: RestConversation
    snapshot_id: str


@dataclass(slots=True)
class BackfillCounts:
    """What a backfill has read so far: lines are Chatwoot's own, which no webhook carries."""

    conversations: int = 0
    messages: int = 0
    lines: int = 0
    gone: int = 0


@dataclass(slots=True)
class Backfiller:
    """The backfill of one instance: conversations with activity since `since_s`, Unix time.

    `reached` is how far each conversation came before; `on_progress` is called after each.
    """

    source: Source
    sink: Sink
    starts: Starts
    instance: str
    since_s: float
    reached: dict[int, int] = field(default_factory=dict)
    on_progress: Callable[[], None] = lambda: None
    tally: BackfillCounts = field(default_factory=BackfillCounts)

    async def read_inbox(self, inbox: Inbox) -> None:
        """Read every conversation of an inbox.

        One that moves to an earlier page while we read, because somebody writes in it, would be
        missed: so the pages that may have changed are looked at until they hold nothing new.
        """
        until_us = 0
        is_new = True
        while is_new:
            is_new = False
            latest_us = 0
            async for listed in self._walk(inbox, until_us):
                latest_us = max(latest_us, listed.conversation.activity_us)
                if self.reached.get(listed.conversation.id) != _DONE:
                    is_new = True
                    await self._read(listed.conversation, inbox, listed.snapshot_id)
                    self.on_progress()
            until_us = until_us or latest_us

    async def read_one(self, display_id: int, inboxes: Mapping[int, Inbox]) -> bool:
        """Read one conversation; says whether it was found in one of these inboxes."""
        snapshot_id = await self.sink.snapshot_id()
        conversation = await self._reread(display_id)
        if conversation is None:
            return await self._find(display_id, inboxes)
        if conversation.inbox_id is None:
            return await self._find(display_id, inboxes)
        inbox = inboxes.get(conversation.inbox_id)
        if inbox is None:
            return False
        if self.reached.get(display_id) != _DONE:
            await self._read(conversation, inbox, snapshot_id)
        return True

    async def _find(self, display_id: int, inboxes: Mapping[int, Inbox]) -> bool:
        """Look for a conversation that cannot be asked for by itself on the pages."""
        for inbox in inboxes.values():
            async for listed in self._walk(inbox):
                if listed.conversation.id == display_id:
                    await self._read(listed.conversation, inbox, listed.snapshot_id)
                    return True
        return False

    async def _walk(self, inbox: Inbox, until_us: int = 0) -> AsyncIterator[_Listed]:
        """Yield conversations in the order of the pages, as far back as is asked for.

        Ends as well behind a page that was whole before `until_us`, by Chatwoot's clock.
        """
        seen: set[int] = set()
        number = 1
        while True:
            snapshot_id = await self.sink.snapshot_id()
            page = await self.source.conversations(inbox.id, number)
            # A server that gives the last page again and again must not keep us.
            fresh = [c for c in page.conversations if c.id not in seen]
            for conversation in fresh:
                seen.add(conversation.id)
                if self._is_wanted(conversation, inbox):
                    yield _Listed(conversation, snapshot_id)
            least_us = max(until_us, round(self.since_s * _US))
            if not fresh or all(0 < c.activity_us < least_us for c in fresh):
                return
            number += 1

    def _is_wanted(self, conversation: RestConversation, inbox: Inbox) -> bool:
        if conversation.inbox_id not in (inbox.id, None) or conversation.is_bot:
            return False
        return not 0 < conversation.activity_us < self.since_s * _US

    async def _reread(self, display_id: int) -> RestConversation | None:
        try:
            return await self.source.conversation(display_id)
        except UpstreamError as declined:
            if declined.kind != "missing":
                raise
            return None

    async def _read(self, conversation: RestConversation, inbox: Inbox, snapshot_id: str) -> None:
        """Read a conversation's messages; one that is gone meanwhile is passed over."""
        try:
            await self._read_messages(conversation, inbox, snapshot_id)
        except UpstreamError as declined:
            if declined.kind != "missing":
                raise
            self.tally.gone += 1
            await self._note(conversation.id, [], _DONE)

    async def _read_messages(
        self, conversation: RestConversation, inbox: Inbox, snapshot_id: str
    ) -> None:
        before = self.reached.get(conversation.id)
        first: int | None = None
        told = before is not None
        messages = await self.source.messages(conversation.id, before=before)
        if rest_to_webhook.is_ahead(messages, conversation):
            # Somebody wrote in between: go by a reading of the conversation that knows of it.
            snapshot_id = await self.sink.snapshot_id()
            conversation = await self._reread(conversation.id) or conversation
            messages = await self.source.messages(conversation.id, before=before)
        while True:
            wanted = [m for m in messages if not self._is_too_old(m)]
            is_last = len(messages) < MESSAGES_A_PAGE or not wanted
            bodies = self._bodies(wanted, conversation, inbox)
            told = told or bool(bodies)
            if is_last and not told:
                bodies = [rest_to_webhook.conversation_body(conversation, inbox)]
            entries = [backfill_entry(body, self.instance, inbox, snapshot_id) for body in bodies]
            lowest = min((message.id for message in messages), default=_DONE)
            first = min((m.id for m in wanted if not m.is_activity), default=first)
            await self._note(conversation.id, entries, _DONE if is_last else lowest)
            if is_last:
                self.tally.conversations += 1
                if first is not None and len(wanted) == len(messages):
                    await self.starts.put(self.instance, conversation.id, first)
                return
            messages = await self.source.messages(conversation.id, before=lowest)

    def _bodies(
        self, messages: Sequence[RestMessage], conversation: RestConversation, inbox: Inbox
    ) -> list[bytes]:
        """Return what a webhook would carry, newest first as the pages are."""
        sent = [message for message in reversed(messages) if not message.is_activity]
        self.tally.messages += len(sent)
        self.tally.lines += len(messages) - len(sent)
        return [rest_to_webhook.message_body(message, conversation, inbox) for message in sent]

    def _is_too_old(self, message: RestMessage) -> bool:
        return to_us(message.created_at) < self.since_s * _US

    async def _note(
        self, display_id: int, entries: Sequence[Mapping[str, bytes]], reached: int
    ) -> None:
        await self.sink.put(entries, display_id, reached)
        self.reached[display_id] = reached


def backfill_entry(
    body: bytes, instance: str, inbox: Inbox, snapshot_id: str
) -> Mapping[str, bytes]:
    """Return an entry of the stream; `snapshot_id` is when Chatwoot was asked for what it says."""
    return {
        "payload": body,
        "instance": instance.encode(),
        "account": str(inbox.account_id).encode(),
        "_id": snapshot_id.encode(),
    }
