"""Read-through: what the cache does not have is asked of Chatwoot once, and put on the stream.

The worker caches it like any other event, so what is newer stands, and readers get it from there.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import anyio
import structlog
from cachetools import TTLCache

from worker.chatwoot.backfiller import Page as ConversationPage, Starts, backfill_entry
from worker.core import rest_to_webhook
from worker.core.binding_rules import Bindings
from worker.core.chatwoot_event import API_CHANNEL
from worker.core.inbox_matching import Inbox
from worker.core.message_page import MessageRange
from worker.core.rest_to_webhook import MESSAGES_A_PAGE, RestConversation, RestMessage
from worker.errors import RedisUnavailable, UpstreamError
from worker.ops.logs import LogThrottle

Result = Literal["fetched", "missing", "failed"]
"""Brought into the cache; unknown to Chatwoot, or none of this instance's; or not in time."""

_POLL_S: Final = 0.005
_REMEMBERED: Final = 10_000
_LOG_EVERY_S: Final = 60.0

log = structlog.get_logger(__name__)


class Source(Protocol):
    """One account of Chatwoot's; everything raises `UpstreamError`."""

    async def conversations(self, inbox_id: int, page: int) -> ConversationPage:
        """Return a page of an inbox's conversations, the first page being 1."""

    async def conversation(self, display_id: int) -> RestConversation:
        """Return one conversation."""

    async def messages(self, display_id: int, *, before: int | None = None) -> list[RestMessage]:
        """Return the newest messages of a conversation, or the newest before an id."""


class Sink(Protocol):
    """The stream, for what is known of one instance."""

    async def snapshot_id(self) -> str:
        """Return an id for entries of what is asked for now."""

    async def add(self, entries: Sequence[Mapping[str, bytes]]) -> None:
        """Add entries."""


class Table(Protocol):
    """The bindings that all workers share."""

    async def peek(self) -> Bindings:
        """Read all bindings, and change nothing."""


class Cached(Protocol):
    """What one reader sees of an instance."""

    async def message(self, message_id: int) -> object | None:
        """Return a message."""

    async def conversation(self, display_id: int) -> object | None:
        """Return a conversation."""


@dataclass(frozen=True, slots=True)
class ReadThroughDeps:
    """What read-through speaks to; `source` gives None for an account without a token."""

    source: Callable[[int], Source | None]
    sink: Callable[[str], Sink]
    cached: Callable[[str], Cached]
    table: Table
    starts: Starts
    operator: Bindings


@dataclass(slots=True)
class _Flight:
    """A request to Chatwoot that is under way, for all who ask the same."""

    landed: anyio.Event = field(default_factory=anyio.Event)
    result: Result = "failed"


_Asked = tuple[str, int, MessageRange]


class ReadThrough:
    """Brings conversations into the cache; everything together may take `timeout_s`.

    What failed, or was not there, is not asked again for `pause_s`.
    """

    def __init__(self, ports: ReadThroughDeps, *, timeout_s: float, pause_s: float = 5.0) -> None:
        self._ports = ports
        self._timeout_s = timeout_s
        self._flights: dict[_Asked, _Flight] = {}
        self._lately: TTLCache[_Asked, Result] = TTLCache(_REMEMBERED, pause_s)
        self._throttle = LogThrottle(_LOG_EVERY_S)

    async def fetch(self, instance: str, display_id: int, asked: MessageRange) -> Result:
        """Put what Chatwoot knows of these messages into the cache; never raises."""
        key = (instance, display_id, asked)
        if (lately := self._lately.get(key)) is not None:
            return lately
        flight = self._flights.get(key)
        if flight is not None:
            await flight.landed.wait()
            return flight.result

        flight = self._flights[key] = _Flight()
        try:
            flight.result = await self._fetch_in_time(instance, display_id, asked)
            self._lately[key] = flight.result
        finally:
            del self._flights[key]
            flight.landed.set()
        return flight.result

    async def _fetch_in_time(self, instance: str, display_id: int, asked: MessageRange) -> Result:
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._fetch(instance, display_id, asked)
        except TimeoutError:
            self._log("slow", f"nothing within {self._timeout_s:g} s")
        except UpstreamError as declined:
            if declined.kind == "missing":
                return "missing"
            self._log(declined.kind, str(declined))
        except RedisUnavailable as error:
            self._log(error.kind, str(error))
        return "failed"

    def _log(self, kind: str, error: str) -> None:
        more = self._throttle.ready(kind)
        if more is not None:
            log.warning("read_through.failed", kind=kind, error=error, suppressed=more)

    async def _fetch(self, instance: str, display_id: int, asked: MessageRange) -> Result:
        bindings = (await self._ports.table.peek()).overruled_by(self._ports.operator)
        inboxes = [_inbox(key) for key in bindings.inboxes_of(instance)]
        source = self._ports.source(inboxes[0].account_id) if inboxes else None
        if source is None:
            return "missing"
        sink = self._ports.sink(instance)
        snapshot_id = await sink.snapshot_id()
        conversation = await _conversation(source, display_id, inboxes)
        inbox = next((i for i in inboxes if i.id == conversation.inbox_id), None)
        if inbox is None or conversation.is_bot:
            return "missing"
        messages, from_start = await _messages(source, display_id, asked)
        bodies = [rest_to_webhook.message_body(m, conversation, inbox) for m in messages]
        bodies = bodies or [rest_to_webhook.conversation_body(conversation, inbox)]
        await sink.add([backfill_entry(body, instance, inbox, snapshot_id) for body in bodies])
        if from_start and messages and asked.before is None:
            first = min(message.id for message in messages)
            await self._ports.starts.put(instance, display_id, first)
        await self._see(instance, display_id, messages)
        return "fetched"

    async def _see(self, instance: str, display_id: int, messages: Sequence[RestMessage]) -> None:
        """Wait until what was put on the stream is in the cache."""
        cached = self._ports.cached
        await _until(lambda: _has_all(cached(instance), display_id, messages))


async def _has_all(cached: Cached, display_id: int, messages: Sequence[RestMessage]) -> bool:
    if await cached.conversation(display_id) is None:
        return False
    return all([await cached.message(message.id) for message in messages])


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    while not await look():  # noqa: ASYNC110  (another worker may write it)
        await anyio.sleep(_POLL_S)


def _inbox(key: str) -> Inbox:
    account_id, _, inbox_id = key.partition("/")
    return Inbox(int(inbox_id), int(account_id), "", API_CHANNEL)


async def _conversation(
    source: Source, display_id: int, inboxes: Sequence[Inbox]
) -> RestConversation:
    """Return a conversation by itself, or from the first page of its inbox."""
    try:
        return await source.conversation(display_id)
    except UpstreamError as declined:
        if declined.kind != "missing":
            raise
        for inbox in inboxes:
            page = await source.conversations(inbox.id, 1)
            found = next((c for c in page.conversations if c.id == display_id), None)
            if found is not None:
                return found
        raise


async def _messages(
    source: Source, display_id: int, asked: MessageRange
) -> tuple[list[RestMessage], bool]:
    """Return what webhooks would carry, newest first, and whether it reaches the beginning."""
    found: list[RestMessage] = []
    before = asked.before
    while True:
        page = await source.messages(display_id, before=before)
        found += [m for m in reversed(page) if not m.is_activity]
        before = min((message.id for message in page), default=0)
        if len(page) < MESSAGES_A_PAGE:
            return found, True
        if len(found) > asked.limit or before <= (asked.after or 0):
            return found, False
