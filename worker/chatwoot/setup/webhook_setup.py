"""The webhook of an account: found, or created, or changed, so that it brings our events."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

from worker.chatwoot.rest_client import ChatwootClient, Webhook
from worker.core.chatwoot_event import EVENTS
from worker.errors import UpstreamError

State = Literal["found", "created", "changed", "would create", "would change", "none"]

_NOT_HERE: Final = frozenset(("forbidden", "unauthorized", "missing"))
_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """What became of an account's webhook; `secret` signs it, else `token` stands in its URL."""

    account_id: int
    state: State
    reason: str = ""
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


async def ensure_webhook(
    users: Sequence[ChatwootClient], url: str, token: str | None, *, dry_run: bool
) -> WebhookStatus:
    """See to an account's webhook to `url`, as the first of its users who may.

    A Chatwoot before 4.11.2 signs nothing: its webhook gets `token`, or a new one, in the URL.
    """
    declined: UpstreamError | None = None
    account_id = users[0].account_id
    for user in users:
        try:
            webhooks = await user.webhooks()
            return await _ensure_as(user, webhooks, url, token, dry_run=dry_run)
        except UpstreamError as error:
            declined = error
            if error.kind not in _NOT_HERE:
                break
    return WebhookStatus(account_id, "none", str(declined))


async def _ensure_as(
    user: ChatwootClient, webhooks: Sequence[Webhook], url: str, token: str | None, *, dry_run: bool
) -> WebhookStatus:
    found = next((w for w in webhooks if _place(w.url) == _place(url)), None)
    if found is None:
        if dry_run:
            return WebhookStatus(user.account_id, "would create")
        found = await user.create_webhook(url, EVENTS)
        state: State = "created"
    else:
        state = "found"
    if found.secret is None:
        token = token or _token_in(found.url) or secrets.token_urlsafe(_TOKEN_BYTES)
        url = f"{url.partition('?')[0]}?{urlencode({'token': token})}"
    else:
        token, url = None, found.url
    events = [*found.subscriptions, *(e for e in EVENTS if e not in found.subscriptions)]
    if found.url != url or len(events) > len(found.subscriptions):
        if dry_run:
            return WebhookStatus(user.account_id, "would change", secret=found.secret)
        changed = await user.change_webhook(found.id, url, events)
        found = changed if changed.secret else found
        state = "changed" if state == "found" else state
    return WebhookStatus(user.account_id, state, secret=found.secret, token=token)


def _place(url: str) -> tuple[str, str | None, int | None, str]:
    """Return what makes two webhooks the same: all but the query, where a token may stand."""
    address = urlsplit(url)
    try:
        port = address.port
    except ValueError:
        port = None
    return address.scheme, address.hostname, port, address.path.rstrip("/")


def _token_in(url: str) -> str | None:
    query = urlsplit(url).query
    name, _, value = query.partition("=")
    return value if name == "token" and value.isascii() and "&" not in value else None
