"""What one question has seen: each key once, from memory where that is fresh, else from Redis."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from worker.core.document_views import message_view
from worker.store.cache.local_cache import LocalCache, StoreIfUnchanged
from worker.store.cache.value_reader import FetchResult, KeyRequest, ReadValue, TimelineWindow


class ValueReader(Protocol):
    """Where values are."""

    async def fetch(
        self,
        instance: str,
        wanted: Sequence[KeyRequest],
        window: TimelineWindow | None,
        parse: Callable[[bytes], Any],
    ) -> FetchResult:
        """Read keys, and with a window its timeline and messages."""

    async def ping(self) -> None:
        """Raise unless the server answers."""


class RequestCache:
    """The values that one question about an instance needs; `owner` is the instance's account."""

    def __init__(
        self, values: ValueReader, local: LocalCache | None, accounts: str, instance: str
    ) -> None:
        self._values = values
        self._local = local
        self._instance = instance
        self._seen: dict[str, Any] = {}
        self._owner_key = accounts if local is None else local.field(accounts, instance)
        self.from_memory = True

    @property
    def owner(self) -> Any:
        """The account that the instance belongs to, None where that is not known."""
        return self._seen[self._owner_key]

    async def at(
        self, wanted: Sequence[KeyRequest], window: TimelineWindow | None = None
    ) -> dict[str, Any]:
        """Return everything seen so far, these keys among them; a window brings its timeline."""
        missing = [want for want in wanted if not self._knows(want.key)]
        without = window if window and not self._knows(window.timeline) else None
        if missing or without or not self._knows(self._owner_key):
            await self._fetch(missing, without)
        return self._seen

    def _knows(self, key: str) -> bool:
        if key in self._seen:
            return True
        held = None if self._local is None else self._local.get(key)
        if held is None:
            return False
        self._seen[key] = held.value
        return True

    async def _fetch(self, wanted: Sequence[KeyRequest], window: TimelineWindow | None) -> None:
        self.from_memory = False
        if self._local is None:
            self._see(await self._values.fetch(self._instance, wanted, window, message_view), None)
            return
        with self._local.reading() as keep:
            fetched = await self._values.fetch(self._instance, wanted, window, message_view)
            self._see(fetched, keep)

    def _see(self, fetched: FetchResult, keep: StoreIfUnchanged | None) -> None:
        values: dict[str, ReadValue] = {self._owner_key: fetched.owner, **fetched.values}
        for key, value in values.items():
            self._seen[key] = value.value
            if keep is not None:
                keep(key, value)
