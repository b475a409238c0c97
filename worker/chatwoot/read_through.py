"""Read-through: fetches from Chatwoot what the cache does not have, and adds it to the stream.

The worker caches it like any other event, so newer state is kept, and readers find it in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio
import structlog
from cachetools import TTLCache

from worker.chatwoot.account_clients import AccountClients
from worker.chatwoot.paginator import HistoryPaginator
from worker.core.binding_rules import Bindings
from worker.core.history.message_page import MessageRange
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import ConversationSnapshot, RestMessage
from worker.errors import RedisUnavailable, UpstreamError
from worker.ops.logs import LogThrottle
from worker.settings import Settings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.first_messages import FirstMessages
from worker.store.client import Client
from worker.store.stream.stream_reader import StreamProducer

Result = Literal["fetched", "missing", "failed"]
"""`missing`: no such conversation in the instance's inboxes; `failed`: also for a time-out."""

_POLL_S: Final = 0.005
_RESULT_TTL_S: Final = 5.0
_MAX_RESULTS: Final = 10_000
_LOG_EVERY_S: Final = 60.0

_Key = tuple[str, int, MessageRange]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Fetch:
    """A fetch in progress, shared by all who ask for the same."""

    done: anyio.Event = field(default_factory=anyio.Event)
    result: Result = "failed"


class ReadThrough:
    """Fetches conversations; identical requests share one fetch, and its result for 5 seconds."""

    def __init__(
        self,
        settings: Settings,
        clients: AccountClients,
        reader: DocumentReader,
        *,
        cache: Client,
        stream: Client,
    ) -> None:
        cache_settings = CacheSettings(settings.cache_redis_prefix_key, settings.cache_redis_ttl)
        self._timeout_s = settings.read_through_timeout_s
        self._operator = Bindings.of_operator(settings.instances)
        self._clients = clients
        self._reader = reader
        self._bindings = BindingTable(cache, cache_settings)
        self._first_messages = FirstMessages(cache, cache_settings)
        self._stream = stream
        self._producer = StreamProducer(stream, settings.stream_key)
        self._fetches: dict[_Key, _Fetch] = {}
        self._results: TTLCache[_Key, Result] = TTLCache(_MAX_RESULTS, _RESULT_TTL_S)
        self._throttle = LogThrottle(_LOG_EVERY_S)

    async def fetch(self, instance: str, display_id: int, wanted: MessageRange) -> Result:
        """Bring messages of a conversation into the cache, within the time-out."""
        key = (instance, display_id, wanted)
        if (recent := self._results.get(key)) is not None:
            return recent
        if (other := self._fetches.get(key)) is not None:
            await other.done.wait()
            return other.result

        fetch = self._fetches[key] = _Fetch()
        try:
            fetch.result = self._results[key] = await self._fetch_in_time(*key)
        finally:
            del self._fetches[key]
            fetch.done.set()
        return fetch.result

    async def _fetch_in_time(self, instance: str, display_id: int, wanted: MessageRange) -> Result:
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._fetch(instance, display_id, wanted)
        except TimeoutError:
            self._log("slow", f"nothing within {self._timeout_s:g} s")
        except UpstreamError as error:
            if error.kind == "missing":
                return "missing"
            self._log(error.kind, str(error))
        except RedisUnavailable as error:
            self._log(error.kind, str(error))
        return "failed"

    def _log(self, kind: str, error: str) -> None:
        suppressed = self._throttle.ready(kind)
        if suppressed is not None:
            log.warning("read_through.failed", kind=kind, error=error, suppressed=suppressed)

    async def _fetch(self, instance: str, display_id: int, wanted: MessageRange) -> Result:
        bindings = (await self._bindings.peek()).overruled_by(self._operator)
        inboxes = {i.id: i for i in map(Inbox.from_key, bindings.inboxes_of(instance))}
        account_id = next((inbox.account_id for inbox in inboxes.values()), 0)
        client = self._clients.of(account_id) if inboxes else None
        if client is None:
            return "missing"
        pages = HistoryPaginator(client, self._stream)
        snapshot = await pages.find(display_id, inboxes, max_pages=1)
        if snapshot is None:
            return "missing"
        snapshot, messages, from_start = await _read(pages, snapshot, wanted)
        await self._producer.add_all(
            snapshot.message_entries(messages, instance) or [snapshot.conversation_entry(instance)]
        )
        if from_start and messages and wanted.before is None:
            first_id = min(message.id for message in messages)
            await self._first_messages.put(instance, display_id, first_id)
        while not await self._is_cached(instance, display_id, messages):  # noqa: ASYNC110
            await anyio.sleep(_POLL_S)  # another worker may cache it
        return "fetched"

    async def _is_cached(
        self, instance: str, display_id: int, messages: Sequence[RestMessage]
    ) -> bool:
        reader = self._reader.of(instance)
        if await reader.conversation(display_id) is None:
            return False
        return all([await reader.message(message.id) for message in messages])


async def _read(
    pages: HistoryPaginator, snapshot: ConversationSnapshot, wanted: MessageRange
) -> tuple[ConversationSnapshot, list[RestMessage], bool]:
    """Return the messages that webhooks carry, newest first, and whether they reach the start."""
    sent: list[RestMessage] = []
    is_last = False
    async for page in pages.messages(snapshot, before=wanted.before):
        snapshot, is_last = page.snapshot, page.is_last
        sent += [m for m in reversed(page.messages) if not m.is_activity]
        if len(sent) > wanted.limit or page.lowest_id <= (wanted.after or 0):
            break
    return snapshot, sent, is_last
