"""Chatwoot's accounts, as far as the settings know them, and reads that go through to them."""

from worker.core.bindings import Bindings
from worker.pipeline.through import Ports, ReadThrough
from worker.remote.api import Pace
from worker.remote.chatwoot import Chatwoot
from worker.settings import Settings
from worker.store.bindings import BindingTable
from worker.store.cache import CacheSettings
from worker.store.connect import Client
from worker.store.headway import Headway
from worker.store.reader import Reader
from worker.store.starts import Starts


class Accounts:
    """Gives each account's client, made when it is first asked for; all keep one pace."""

    def __init__(self, settings: Settings, *, timeout_s: float, attempts: int = 1) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._pace = Pace(settings.chatwoot_requests_per_s)
        self._made: dict[int, Chatwoot] = {}

    def of(self, account_id: int) -> Chatwoot | None:
        """Return an account, None where Chatwoot's address or a token for it is not known."""
        several = self._settings.chatwoot_tokens.get(account_id)
        token = several[0] if several else self._settings.chatwoot_token
        url = self._settings.chatwoot_url
        if url is None or token is None:
            return None
        if account_id not in self._made:
            self._made[account_id] = Chatwoot(
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


def reads_through(settings: Settings) -> bool:
    """Say whether the settings know enough to ask Chatwoot for what the cache does not have."""
    has_token = bool(settings.chatwoot_token or settings.chatwoot_tokens)
    is_known = settings.chatwoot_url is not None and has_token
    return settings.reads_enabled and is_known and not settings.local_only


def read_through(
    settings: Settings, accounts: Accounts, reader: Reader, cache: Client, stream: Client
) -> ReadThrough:
    """Build the reads that go through."""
    of = CacheSettings(prefix=settings.cache_redis_prefix_key, ttl_s=settings.cache_redis_ttl)
    ports = Ports(
        source=accounts.of,
        sink=lambda instance: Headway(stream, settings.stream_key, instance),
        cached=reader.of,
        table=BindingTable(cache, of),
        starts=Starts(cache, of),
        operator=Bindings.of_operator(settings.instances),
    )
    return ReadThrough(ports, timeout_s=settings.read_through_timeout_s)
