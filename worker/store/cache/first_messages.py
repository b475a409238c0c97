"""Which message a conversation begins with, where that was read in Chatwoot."""

from worker.core.cache_keys import CacheKeys
from worker.store.cache.document_writer import CacheSettings
from worker.store.client import Client, translate_errors


class FirstMessages:
    """The first messages of conversations, kept as long as documents are."""

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        self._client = client
        self._keys = CacheKeys(settings.prefix)
        self._ttl_s = settings.ttl_s

    async def put(self, instance: str, display_id: int, message_id: int) -> None:
        """Note a conversation's first message: where the cache has it, it has all after it."""
        async with translate_errors(self._client):
            key = self._keys.start(instance, display_id)
            await self._client.set(key, message_id, ex=self._ttl_s)
