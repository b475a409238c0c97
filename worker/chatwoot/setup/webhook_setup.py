"""Sets up the webhook of an account: finds, creates or changes it, so that it sends our events."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from worker.chatwoot.rest_client import ChatwootClient
from worker.core.chatwoot_event import EVENTS
from worker.errors import UpstreamError

WebhookState = Literal["found", "created", "changed", "would create", "would change", "none"]

_USER_MAY_NOT: Final = frozenset(("forbidden", "unauthorized", "missing"))
_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """The result for an account's webhook: signed with `secret`, else with `token` in its URL."""

    account_id: int
    state: WebhookState
    reason: str = ""
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


async def ensure_webhook(
    clients: Sequence[ChatwootClient], url: str, token: str | None, *, dry_run: bool
) -> WebhookStatus:
    """Set up an account's webhook to `url`, as the first of its users who may.

    Chatwoot before 4.11.2 signs nothing: its webhook gets `token`, or a new one, in the URL.
    """
    reason = ""
    for client in clients:
        try:
            return await _ensure_as(client, url, token, dry_run=dry_run)
        except UpstreamError as error:
            reason = str(error)
            if error.kind not in _USER_MAY_NOT:
                break
    return WebhookStatus(clients[0].account_id, "none", reason)


async def _ensure_as(
    client: ChatwootClient, url: str, token: str | None, *, dry_run: bool
) -> WebhookStatus:
    webhooks = await client.webhooks()
    webhook = next((w for w in webhooks if _endpoint(w.url) == _endpoint(url)), None)
    state: WebhookState = "found" if webhook else "created"
    if webhook is None:
        if dry_run:
            return WebhookStatus(client.account_id, "would create")
        webhook = await client.save_webhook(url, EVENTS)
    if webhook.secret is None:
        token = token or dict(parse_qsl(urlsplit(webhook.url).query)).get("token")
        token = token or secrets.token_urlsafe(_TOKEN_BYTES)
        url = f"{url.partition('?')[0]}?{urlencode({'token': token})}"
    else:
        token, url = None, webhook.url
    missing = [event for event in EVENTS if event not in webhook.subscriptions]
    if webhook.url != url or missing:
        if dry_run:
            return WebhookStatus(client.account_id, "would change", secret=webhook.secret)
        events = [*webhook.subscriptions, *missing]
        changed = await client.save_webhook(url, events, webhook_id=webhook.id)
        webhook = changed if changed.secret else webhook
        state = "changed" if state == "found" else state
    return WebhookStatus(client.account_id, state, secret=webhook.secret, token=token)


def _endpoint(url: str) -> tuple[str, str, str]:
    """Return what identifies a webhook: the URL without its query, which may hold a token."""
    address = urlsplit(url)
    return address.scheme, address.netloc.lower(), address.path.rstrip("/")
