"""Chatwoot's REST API, as far as `connect`, `backfill` and reads need it.

Read from Chatwoot 4.x: a user's access token in `api_access_token`, one account in the path,
25 conversations and 20 messages a page.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec
from msgspec import Struct

from worker.chatwoot.http_client import JsonClient, Parameters, RateLimiter, RemoteService
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import MESSAGES_A_PAGE, RestConversation, RestMessage
from worker.errors import UpstreamError, UpstreamFailure

__all__ = ["MESSAGES_A_PAGE", "ChatwootClient", "ConversationPage", "Webhook"]

_ADVICE: Final[Mapping[UpstreamFailure, str]] = {
    "unauthorized": "the token is wrong, or its user has no access to this account",
    "forbidden": "the token's user may not do this; webhooks need an administrator's token",
    "missing": "the account, or what was asked for in it, does not exist for this token's user",
    "limited": "it limits requests (RACK_ATTACK_LIMIT); "
    "lower CHATWOOT_CACHE_CHATWOOT_REQUESTS_PER_S, and try again in a minute",
    "failing": "see Chatwoot's own log, and try again",
    "slow": "try again, or raise CHATWOOT_CACHE_CHATWOOT_TIMEOUT_S",
    "unreachable": "if that name is known inside Docker only, "
    "give the address that leads there from here: connect --chatwoot URL",
    "redirected": "give that address instead: connect --chatwoot URL",
    "strange": "give Chatwoot's own address, without a path: connect --chatwoot URL",
}

_T = TypeVar("_T")


class Webhook(Struct, frozen=True):
    """A webhook of an account; the secret is shown to administrators, since 4.11.2."""

    id: int
    url: str
    subscriptions: list[str] = []
    secret: str | None = None


class ConversationPage(Struct, frozen=True):
    """A page of conversations, those with the latest activity first, and how many there are."""

    conversations: Sequence[RestConversation]
    count: int | None


class _Inbox(Struct):
    id: int
    name: str | None = None
    channel_type: str | None = None
    webhook_url: str | None = None


class _Inboxes(Struct):
    payload: list[_Inbox]


class _Webhooks(Struct):
    webhooks: list[Webhook]


class _WebhooksAnswer(Struct):
    payload: _Webhooks


class _OneWebhook(Struct):
    webhook: Webhook


class _WebhookAnswer(Struct):
    payload: _OneWebhook


class _Counts(Struct):
    all_count: int | None = None


class _Page(Struct):
    payload: list[RestConversation]
    meta: _Counts = msgspec.field(default_factory=_Counts)


class _PageAnswer(Struct):
    data: _Page


class _Messages(Struct):
    payload: list[RestMessage]


class ChatwootClient:
    """One account of one Chatwoot, as the user sees it whose token it is."""

    def __init__(
        self,
        url: str,
        token: str,
        account_id: int,
        *,
        timeout_s: float,
        attempts: int = 1,
        pace: RateLimiter | None = None,
    ) -> None:
        self.account_id = account_id
        self._peer = RemoteService("Chatwoot", url, {"api_access_token": token}, _ADVICE)
        self._api = JsonClient(self._peer, timeout_s=timeout_s, attempts=attempts, pace=pace)
        self._base = f"/api/v1/accounts/{account_id}"

    async def __aenter__(self) -> Self:
        """Return the account itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the connections back."""
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()

    async def inboxes(self) -> list[Inbox]:
        """Return the inboxes that the user sees: all for an administrator, else their own."""
        answer = self._read(await self._api.get(f"{self._base}/inboxes"), _Inboxes)
        return [
            Inbox(i.id, self.account_id, i.name or "", i.channel_type or "", i.webhook_url)
            for i in answer.payload
        ]

    async def webhooks(self) -> list[Webhook]:
        """Return the account's webhooks; administrators only."""
        answer = self._read(await self._api.get(f"{self._base}/webhooks"), _WebhooksAnswer)
        return answer.payload.webhooks

    async def create_webhook(self, url: str, events: Sequence[str]) -> Webhook:
        """Create a webhook, and return it."""
        return await self._send("POST", "", {"url": url, "subscriptions": list(events)})

    async def change_webhook(self, webhook_id: int, url: str, events: Sequence[str]) -> Webhook:
        """Change what a webhook receives, and where."""
        change = {"url": url, "subscriptions": list(events)}
        return await self._send("PATCH", f"/{webhook_id}", change)

    async def _send(self, method: str, path: str, webhook: Mapping[str, Any]) -> Webhook:
        answer = await self._api.send(method, f"{self._base}/webhooks{path}", {"webhook": webhook})
        return self._read(answer, _WebhookAnswer).payload.webhook

    async def conversations(self, inbox_id: int, page: int) -> ConversationPage:
        """Return a page of an inbox's conversations, the first page being 1."""
        asked: Parameters = {
            "status": "all",
            "assignee_type": "all",
            "inbox_id": inbox_id,
            "page": page,
        }
        answer = self._read(await self._api.get(f"{self._base}/conversations", asked), _PageAnswer)
        return ConversationPage(answer.data.payload, answer.data.meta.all_count)

    async def conversation(self, display_id: int) -> RestConversation:
        """Return one conversation."""
        answer = await self._api.get(f"{self._base}/conversations/{display_id}")
        return self._read(answer, RestConversation)

    async def messages(self, display_id: int, *, before: int | None = None) -> list[RestMessage]:
        """Return the newest messages of a conversation, or the newest before an id."""
        path = f"{self._base}/conversations/{display_id}/messages"
        asked = {} if before is None else {"before": before}
        return self._read(await self._api.get(path, asked), _Messages).payload

    def _read(self, answer: bytes, shape: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Without the cause, which may quote what people wrote.
            raise self._strange() from None

    def _strange(self) -> UpstreamError:
        return self._peer.declined("strange", "answers in a shape that is none of Chatwoot 4's")
