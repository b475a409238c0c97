"""What an entry is about, read loosely: entries that cannot be used say something, too."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from worker.core.binding_rules import Bindings, inbox_key
from worker.core.cache_keys import aliases
from worker.core.chatwoot_event import API_CHANNEL
from worker.core.documents import Contact
from worker.core.stream_entry import Fields

_MAX_NESTING: Final = 100


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """What an entry says about where it comes from and whom it is about; None where it says not."""

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
        """Return the inbox it comes from; without an account, the only one of that id."""
        if self.inbox_id is None:
            return None
        if self.account_id is not None:
            return inbox_key(self.account_id, self.inbox_id)
        known = bindings.accounts_of_inboxes().get(self.inbox_id, [])
        return inbox_key(known[0], self.inbox_id) if len(known) == 1 else None

    def belongs_to(self, bindings: Bindings) -> str | None:
        """Return the instance whose it is: as bound, else as stated, else as the inbox is named.

        A name counts only where the instance is not another account's. What names no inbox is
        that of an instance only where its account has no other.
        """
        inbox = self.inbox(bindings)
        if inbox is None:
            of_account = [name for name, a in bindings.accounts.items() if a == self.account_id]
            return self.instance or (of_account[0] if len(of_account) == 1 else None)
        bound = bindings.instances.get(inbox)
        named = self.inbox_name if self.channel in (API_CHANNEL, None) else None
        claimed = self.instance or named
        if bound or claimed is None:
            return bound
        account_id = int(inbox.partition("/")[0])
        return claimed if bindings.accounts.get(claimed, account_id) == account_id else None

    def names(self, bindings: Bindings) -> set[str]:
        """Return every instance that it has to do with: in a conflict there are two."""
        found = (self.belongs_to(bindings), self.instance, self.expect, self.inbox_name)
        return {name for name in found if name}


def summarize_entry(fields: Fields) -> EntrySummary:
    """Read an entry's fields; whatever is not there, or of another type, is passed over."""
    body = _object(fields.get(b"payload", b""))
    account = fields.get(b"account", b"")
    signed = int(account) if account.isdigit() and len(account) < len(str(2**63)) else None
    told = EntrySummary(account_id=signed) if body is None else _of_body(body, signed)
    instance, expect = _text(fields.get(b"instance")), _text(fields.get(b"expect"))
    return replace(told, instance=instance, expect=expect)


def _of_body(body: dict[str, Any], signed: int | None) -> EntrySummary:
    event = body.get("event")
    inner = body.get("conversation")
    about_message = isinstance(inner, dict)
    conversation: dict[str, Any] = inner if isinstance(inner, dict) else body
    latest = conversation.get("messages")
    first = latest[0] if isinstance(latest, list) and latest else {}
    is_conversation = about_message or str(event).startswith("conversation_")
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
        conversation_id=_id(conversation, "id") if is_conversation else None,
        contacts=frozenset(name for contact in _contacts(body) for name in aliases(contact)),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _member(of: Any, *path: str) -> Any:
    for name in path:
        of = of.get(name) if isinstance(of, dict) else None
    return of


def _id(of: Any, *path: str) -> int | None:
    found = _member(of, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _string(of: Any, *path: str) -> str | None:
    found = _member(of, *path)
    return found if isinstance(found, str) else None


def _contacts(body: Any) -> Iterator[Contact]:
    """Yield whoever is named anywhere, level by level."""
    level: list[Any] = [body]
    for _ in range(_MAX_NESTING):
        objects = [item for item in level if isinstance(item, dict)]
        for item in objects:
            yield Contact(
                identifier=_string(item, "identifier"), phone_number=_string(item, "phone_number")
            )
        lists = [item for item in level if isinstance(item, list)]
        level = [v for o in objects for v in o.values()] + [v for some in lists for v in some]
