"""Client of Chatwoot's REST API, as far as `connect`, `backfill` and read-through need it.

Written against Chatwoot 4.x: a user's access token in `api_access_token`, the account in the path,
25 conversations and 20 messages per page.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

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


_T = TypeVar("_T")


class Webhook(Struct, frozen=True):
    """A webhook of an account; the secret is shown to administrators, since 4.11.2."""

    id: int
    url: str
    subscriptions: list[str] = []
    secret: str | None = None


class _Counts(Struct):
    all_count: int | None = None


class ConversationPage(Struct):
    """A page of conversations, latest activity first."""

    conversations: list[RestConversation] = field(name="payload")
    counts: _Counts = field(default_factory=_Counts, name="meta")

    @property
    def count(self) -> int | None:
        """The number of conversations on all pages."""
        return self.counts.all_count


class _Data(Struct):
    data: ConversationPage


class _Payload(Struct, Generic[_T]):
    payload: _T


class _Webhooks(Struct):
    webhooks: list[Webhook]


class _SavedWebhook(Struct):
    webhook: Webhook


class _Inbox(Struct):
    id: int
    name: str | None = None
    channel_type: str | None = None
    webhook_url: str | None = None


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
        reply = await self._get("/inboxes", _Payload[list[_Inbox]])
        return [
            Inbox(i.id, self.account_id, i.name or "", i.channel_type or "", i.webhook_url)
            for i in reply.payload
        ]

    async def webhooks(self) -> list[Webhook]:
        """Return the account's webhooks; administrators only."""
        return (await self._get("/webhooks", _Payload[_Webhooks])).payload.webhooks

    async def save_webhook(
        self, url: str, events: Sequence[str], *, webhook_id: int | None = None
    ) -> Webhook:
        """Create a webhook, or change the one with an id, and return it."""
        method, path = ("POST", "") if webhook_id is None else ("PATCH", f"/{webhook_id}")
        body = {"webhook": {"url": url, "subscriptions": list(events)}}
        path = f"{self._base}/webhooks{path}"
        reply = await self._http.request(method, path, _Payload[_SavedWebhook], json=body)
        return reply.payload.webhook

    async def conversations(self, inbox_id: int, page: int) -> ConversationPage:
        """Return a page of an inbox's conversations; the first page is 1."""
        params: dict[str, str | int] = {
            "status": "all",
            "assignee_type": "all",
            "inbox_id": inbox_id,
            "page": page,
        }
        return (await self._get("/conversations", _Data, params)).data

    async def conversation(self, display_id: int) -> RestConversation | None:
        """Return one conversation, None where the token's user sees none with that id."""
        try:
            return await self._get(f"/conversations/{display_id}", RestConversation)
        except UpstreamError as error:
            if error.kind == "missing":
                return None
            raise

    async def messages(self, display_id: int, *, before: int | None = None) -> list[RestMessage]:
        """Return the newest messages of a conversation, or the newest before an id."""
        path = f"/conversations/{display_id}/messages"
        params: dict[str, str | int] = {} if before is None else {"before": before}
        messages = (await self._get(path, _Payload[list[RestMessage]], params)).payload
        if before is not None and any(message.id >= before for message in messages):
            raise self.repeated_page(f"the messages of conversation {display_id}", "before")
        return messages

    def repeated_page(self, listed: str, parameter: str) -> UpstreamError:
        """Return the error for a server that ignores the parameter which asks for the next page."""
        text = f"lists {listed} without end: it, or a proxy before it, ignores `{parameter}`"
        return self._http.error("strange", text)

    async def _get(
        self, path: str, reply_type: type[_T], params: dict[str, str | int] | None = None
    ) -> _T:
        return await self._http.request("GET", f"{self._base}{path}", reply_type, params=params)
