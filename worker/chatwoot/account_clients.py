"""Chatwoot's accounts, as far as the settings know them, and reads that go through to them."""

from worker.chatwoot.http_client import RateLimiter
from worker.chatwoot.read_through import ReadThrough, ReadThroughDeps
from worker.chatwoot.rest_client import ChatwootClient
from worker.core.binding_rules import Bindings
from worker.settings import Settings
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.first_messages import FirstMessages
from worker.store.client import Client
from worker.store.stream.backfill_checkpoint import BackfillCheckpoint


class AccountClients:
    """Gives each account's client, made when it is first asked for; all keep one pace."""

    def __init__(self, settings: Settings, *, timeout_s: float, attempts: int = 1) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._pace = RateLimiter(settings.chatwoot_requests_per_s)
        self._made: dict[int, ChatwootClient] = {}

    def of(self, account_id: int) -> ChatwootClient | None:
        """Return an account, None where Chatwoot's address or a token for it is not known."""
        several = self._settings.chatwoot_tokens.get(account_id)
        token = several[0] if several else self._settings.chatwoot_token
        url = self._settings.chatwoot_url
        if url is None or token is None:
            return None
        if account_id not in self._made:
            self._made[account_id] = ChatwootClient(
                url,
                token.get_secret_value(),
                account_id,
                timeout_s=self._timeout_s,
                attempts=self._attempts,
                pace=self._pace,
            )
        return self._made[account_id]

    async def close(self) -> None:
        """Give all connections back."""
        for chatwoot in self._made.values():
            await chatwoot.close()


def can_read_through(settings: Settings) -> bool:
    """Say whether the settings know enough to ask Chatwoot for what the cache does not have."""
    has_token = bool(settings.chatwoot_token or settings.chatwoot_tokens)
    is_known = settings.chatwoot_url is not None and has_token
    return settings.reads_enabled and is_known and not settings.local_only


def build_read_through(
    settings: Settings,
    accounts: AccountClients,
    reader: DocumentReader,
    cache: Client,
    stream: Client,
) -> ReadThrough:
    """Build the reads that go through."""
    of = CacheSettings(prefix=settings.cache_redis_prefix_key, ttl_s=settings.cache_redis_ttl)
    ports = ReadThroughDeps(
        source=accounts.of,
        sink=lambda instance: BackfillCheckpoint(stream, settings.stream_key, instance),
        cached=reader.of,
        table=BindingTable(cache, of),
        starts=FirstMessages(cache, of),
        operator=Bindings.of_operator(settings.instances),
    )
    return ReadThrough(ports, timeout_s=settings.read_through_timeout_s)
