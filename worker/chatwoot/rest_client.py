"""Client of Chatwoot's REST API, as far as `connect`, `backfill` and read-through need it.

Written against Chatwoot 4.x: a user's access token in `api_access_token`, the account in the path,
25 conversations and 20 messages per page.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from worker.chatwoot.http_client import JsonClient, RequestPolicy
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import RestConversation, RestMessage
from worker.errors import UpstreamError, UpstreamFailure

_ADVICE: Final[Mapping[UpstreamFailure, str]] = {
    "unauthorized": "the token is wrong, or its user has no access to this account",
    "forbidden": "the token's user may not do this; webhooks need an administrator's token",
    "missing": "the account, or the resource in it, does not exist for this token's user",
    "limited": "it limits requests (RACK_ATTACK_LIMIT); "
    "lower CHATWOOT_CACHE_CHATWOOT_REQUESTS_PER_S, and try again in a minute",
    "failing": "see Chatwoot's own log, and try again",
    "slow": "try again, or raise CHATWOOT_CACHE_CHATWOOT_TIMEOUT_S",
    "unreachable": "if that name is known inside Docker only, "
    "give an address that is reachable from here: connect --chatwoot URL",
    "redirected": "give that address instead: connect --chatwoot URL",
    "strange": "give Chatwoot's own address, without a path: connect --chatwoot URL",
}


class Webhook(Struct, frozen=True):
    """A webhook of an account; the secret is shown to administrators, since 4.11.2."""

    id: int
    url: str
    subscriptions: list[str] = []
    secret: str | None = None


class ConversationPage(Struct, frozen=True):
    """A page of conversations, latest activity first; `count` is the number on all pages."""

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


class _WebhooksReply(Struct):
    payload: _Webhooks


class _OneWebhook(Struct):
    webhook: Webhook


class _WebhookReply(Struct):
    payload: _OneWebhook


class _Counts(Struct):
    all_count: int | None = None


class _Conversations(Struct):
    payload: list[RestConversation]
    meta: _Counts = msgspec.field(default_factory=_Counts)


class _ConversationsReply(Struct):
    data: _Conversations


class _Messages(Struct):
    payload: list[RestMessage]


class ChatwootClient:
    """Client of one account of one Chatwoot; it sees what the token's user may see."""

    def __init__(self, url: str, token: str, account_id: int, policy: RequestPolicy) -> None:
        self.account_id = account_id
        self._http = JsonClient("Chatwoot", url, {"api_access_token": token}, _ADVICE, policy)
        self._base = f"/api/v1/accounts/{account_id}"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def inboxes(self) -> list[Inbox]:
        """Return all inboxes for an administrator, an agent's own inboxes for an agent."""
        reply = await self._http.get(f"{self._base}/inboxes", _Inboxes)
        return [
            Inbox(i.id, self.account_id, i.name or "", i.channel_type or "", i.webhook_url)
            for i in reply.payload
        ]

    async def webhooks(self) -> list[Webhook]:
        """Return the account's webhooks; administrators only."""
        reply = await self._http.get(f"{self._base}/webhooks", _WebhooksReply)
        return reply.payload.webhooks

    async def create_webhook(self, url: str, events: Sequence[str]) -> Webhook:
        """Create a webhook, and return it."""
        return await self._save_webhook("POST", "", url, events)

    async def update_webhook(self, webhook_id: int, url: str, events: Sequence[str]) -> Webhook:
        """Change the URL and the events of a webhook, and return it."""
        return await self._save_webhook("PATCH", f"/{webhook_id}", url, events)

    async def _save_webhook(
        self, method: str, path: str, url: str, events: Sequence[str]
    ) -> Webhook:
        body = {"webhook": {"url": url, "subscriptions": list(events)}}
        reply = await self._http.send(method, f"{self._base}/webhooks{path}", body, _WebhookReply)
        return reply.payload.webhook

    async def conversations(self, inbox_id: int, page: int) -> ConversationPage:
        """Return a page of an inbox's conversations; the first page is 1."""
        reply = await self._http.get(
            f"{self._base}/conversations",
            _ConversationsReply,
            status="all",
            assignee_type="all",
            inbox_id=inbox_id,
            page=page,
        )
        return ConversationPage(reply.data.payload, reply.data.meta.all_count)

    async def conversation(self, display_id: int) -> RestConversation | None:
        """Return one conversation, None where the token's user sees none with that id."""
        path = f"{self._base}/conversations/{display_id}"
        try:
            return await self._http.get(path, RestConversation)
        except UpstreamError as error:
            if error.kind == "missing":
                return None
            raise

    async def messages(self, display_id: int, *, before: int | None = None) -> list[RestMessage]:
        """Return the newest messages of a conversation, or the newest before an id."""
        path = f"{self._base}/conversations/{display_id}/messages"
        reply = await self._http.get(path, _Messages, before=before)
        if before is not None and any(message.id >= before for message in reply.payload):
            raise self.repeated_page(f"the messages of conversation {display_id}", "before")
        return reply.payload

    def repeated_page(self, listed: str, parameter: str) -> UpstreamError:
        """Return the error for a server that ignores the parameter which asks for the next page."""
        text = f"lists {listed} without end: it, or a proxy before it, ignores `{parameter}`"
        return self._http.error("strange", text)
