"""Clients of the Chatwoot accounts that the settings know."""

from worker.chatwoot.http_client import RateLimiter, RequestPolicy
from worker.chatwoot.rest_client import ChatwootClient
from worker.settings import Settings


class AccountClients:
    """One client for each account, created at its first use; all share one rate limit."""

    def __init__(self, settings: Settings, *, timeout_s: float, attempts: int = 1) -> None:
        self._settings = settings
        limiter = RateLimiter(settings.chatwoot_requests_per_s)
        self._policy = RequestPolicy(timeout_s, attempts, limiter)
        self._clients: dict[int, ChatwootClient] = {}

    @property
    def is_configured(self) -> bool:
        """Whether Chatwoot's address and a token are known."""
        settings = self._settings
        has_token = bool(settings.chatwoot_token or settings.chatwoot_tokens)
        return settings.chatwoot_url is not None and has_token

    def of(self, account_id: int) -> ChatwootClient | None:
        """Return an account's client, None without Chatwoot's address or a token for it."""
        settings = self._settings
        own_tokens = settings.chatwoot_tokens.get(account_id)
        token = own_tokens[0] if own_tokens else settings.chatwoot_token
        if settings.chatwoot_url is None or token is None:
            return None
        if account_id not in self._clients:
            self._clients[account_id] = ChatwootClient(
                settings.chatwoot_url, token.get_secret_value(), account_id, self._policy
            )
        return self._clients[account_id]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
