"""The values of one read request: each key is read once, from the local tier if possible."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from worker.store.cache.local_cache import LocalCache
from worker.store.cache.value_reader import KeyRequest, ReadValue, TimelineWindow, ValueReader


class RequestCache:
    """The values that one request about an instance has read so far."""

    def __init__(
        self, reader: ValueReader, local: LocalCache | None, accounts_key: str, instance: str
    ) -> None:
        self._reader = reader
        self._local = local
        self._instance = instance
        self._values: dict[str, Any] = {}
        self._accounts_key = accounts_key
        self._owner_key = accounts_key if local is None else local.field_key(accounts_key, instance)
        self.from_memory = True

    @property
    def owner(self) -> Any:
        """The account that the instance belongs to; None if unknown."""
        return self._values[self._owner_key]

    async def read(
        self, requests: Sequence[KeyRequest], window: TimelineWindow | None = None
    ) -> dict[str, Any]:
        """Return all values read so far, these keys included."""
        missing = [request for request in requests if not self._has(request.key)]
        if window and self._has(window.timeline):
            window = None
        if missing or window or not self._has(self._owner_key):
            await self._fetch(missing, window)
        return self._values

    def _has(self, key: str) -> bool:
        if key in self._values:
            return True
        item = None if self._local is None else self._local.get(key)
        if item is None:
            return False
        self._values[key] = item.value
        return True

    async def _fetch(self, requests: Sequence[KeyRequest], window: TimelineWindow | None) -> None:
        self.from_memory = False
        reading = nullcontext(_discard) if self._local is None else self._local.reading()
        with reading as store:
            values = await self._reader.fetch(self._instance, requests, window)
            values[self._owner_key] = values.pop(self._accounts_key)
            for key, value in values.items():
                self._values[key] = value.value
                store(key, value)


def _discard(key: str, value: ReadValue) -> None:
    """Store nothing, without a local tier."""
