"""What an entry is about, parsed leniently: unusable entries are summarized, too.

`chatwoot_event` accepts or refuses a body as a whole. Here each member counts by itself, so that
entries it refused can be listed, and purged with their instance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from worker.core.binding_rules import Bindings, inbox_key
from worker.core.chatwoot_event import API_CHANNEL, MAX_NESTING
from worker.core.contact_identifiers import all_identifiers
from worker.core.documents import Contact
from worker.core.stream_entry import MAX_ID, Fields


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """The origin of an entry, and whom it is about; None where it does not say."""

    event: str | None = None
    account_id: int | None = None
    inbox_id: int | None = None
    inbox_name: str | None = None
    channel: str | None = None
    conversation_id: int | None = None
    contacts: frozenset[str] = frozenset()
    instance: str | None = None
    expect: str | None = None

    def inbox(self, bindings: Bindings) -> str | None:
        """Return the inbox; without an account, the only bound inbox of that id."""
        if self.inbox_id is None:
            return None
        if self.account_id is not None:
            return inbox_key(self.account_id, self.inbox_id)
        accounts = bindings.accounts_of_inboxes().get(self.inbox_id, [])
        return inbox_key(accounts[0], self.inbox_id) if len(accounts) == 1 else None

    def belongs_to(self, bindings: Bindings) -> str | None:
        """Return the instance: the bound one, else the stated one, else that of the inbox's name.

        A name counts only if the instance is not another account's. Without an inbox, the instance
        is the only one of the account.
        """
        inbox = self.inbox(bindings)
        if inbox is None:
            of_account = [name for name, a in bindings.accounts.items() if a == self.account_id]
            return self.instance or (of_account[0] if len(of_account) == 1 else None)
        bound = bindings.instances.get(inbox)
        by_name = self.inbox_name if self.channel in (API_CHANNEL, None) else None
        claimed = self.instance or by_name
        if bound or claimed is None:
            return bound
        account_id = int(inbox.partition("/")[0])
        return claimed if bindings.accounts.get(claimed, account_id) == account_id else None

    def names(self, bindings: Bindings) -> set[str]:
        """Return every instance that it mentions: in a conflict there are two."""
        names = (self.belongs_to(bindings), self.instance, self.expect, self.inbox_name)
        return {name for name in names if name}


def summarize_entry(fields: Fields) -> EntrySummary:
    """Parse an entry's fields; missing values and values of another type are ignored."""
    body = _object(fields.get(b"payload", b""))
    account = fields.get(b"account", b"")
    signed = int(account) if account.isdigit() and len(account) <= len(str(MAX_ID)) else None
    summary = EntrySummary(account_id=signed) if body is None else _summarize_body(body, signed)
    instance, expect = _text(fields.get(b"instance")), _text(fields.get(b"expect"))
    return replace(summary, instance=instance, expect=expect)


def _summarize_body(body: dict[str, Any], signed: int | None) -> EntrySummary:
    event = body.get("event")
    inner = body.get("conversation")
    is_message = isinstance(inner, dict)
    conversation: dict[str, Any] = inner if isinstance(inner, dict) else body
    latest = conversation.get("messages")
    first = latest[0] if isinstance(latest, list) and latest else {}
    has_conversation = is_message or str(event).startswith("conversation_")
    return EntrySummary(
        event=event if isinstance(event, str) else None,
        account_id=_id(body, "account", "id")
        or _id(conversation, "account", "id")
        or _id(first, "account_id")
        or signed,
        inbox_id=_id(body, "inbox", "id")
        or _id(conversation, "inbox_id")
        or _id(first, "inbox_id"),
        inbox_name=_string(body, "inbox", "name"),
        channel=_string(conversation, "channel"),
        conversation_id=_id(conversation, "id") if has_conversation else None,
        contacts=frozenset(
            name for contact in _contacts(body) for name in all_identifiers(contact)
        ),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _id(value: Any, *path: str) -> int | None:
    member = _member(value, *path)
    return member if isinstance(member, int) and not isinstance(member, bool) else None


def _string(value: Any, *path: str) -> str | None:
    member = _member(value, *path)
    return member if isinstance(member, str) else None


def _contacts(body: Any) -> Iterator[Contact]:
    """Yield everybody who is named anywhere in a body, level by level."""
    level: list[Any] = [body]
    for _ in range(MAX_NESTING):
        objects = [item for item in level if isinstance(item, dict)]
        for item in objects:
            yield Contact(
                identifier=_string(item, "identifier"), phone_number=_string(item, "phone_number")
            )
        lists = [item for item in level if isinstance(item, list)]
        level = [v for item in objects for v in item.values()] + [
            v for items in lists for v in items
        ]
