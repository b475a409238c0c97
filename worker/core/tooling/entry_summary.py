"""What an entry is about, as far as it says so; never fails, whatever the entry holds.

`chatwoot_event` decodes a body as a whole or refuses it. This reads each member by itself, so that
dead letters, which were refused, can be listed and purged too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from worker.core.binding_rules import Bindings, inbox_key
from worker.core.cache_keys import aliases
from worker.core.chatwoot_event import API_CHANNEL, MAX_NESTING
from worker.core.documents import Contact
from worker.core.stream_entry import Fields


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """Where an entry comes from and whom it is about; None for what it does not say."""

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
        """Return the instance: as bound, else as stated, else by the name of the inbox.

        A stated instance or a name counts only where no other account has that instance.
        An entry without an inbox belongs to the only instance of its account.
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

    def instances(self, bindings: Bindings) -> set[str]:
        """Return every instance that the entry concerns: two in a conflict."""
        names = (self.belongs_to(bindings), self.instance, self.expect, self.inbox_name)
        return {name for name in names if name}


def summarize_entry(fields: Fields) -> EntrySummary:
    """Summarize an entry; members that are missing or of another type are None."""
    body = decode_leniently(fields.get(b"payload", b""))
    account = fields.get(b"account", b"")
    signed = int(account) if account.isdigit() and len(account) < len(str(2**63)) else None
    is_object = isinstance(body, dict)
    summary = _summarize_body(body, signed) if is_object else EntrySummary(account_id=signed)
    instance, expect = _text(fields.get(b"instance")), _text(fields.get(b"expect"))
    return replace(summary, instance=instance, expect=expect)


def decode_leniently(payload: bytes) -> Any:
    """Return the JSON value of a payload, None for anything else."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _summarize_body(body: Any, signed: int | None) -> EntrySummary:
    event = _string(body, "event")
    of_message = isinstance(body.get("conversation"), dict)
    conversation = body["conversation"] if of_message else body
    messages = conversation.get("messages")
    latest = messages[0] if isinstance(messages, list) and messages else None
    is_conversation = of_message or (event or "").startswith("conversation_")
    return EntrySummary(
        event=event,
        account_id=_id(body, "account", "id")
        or _id(conversation, "account", "id")
        or _id(latest, "account_id")
        or signed,
        inbox_id=_id(body, "inbox", "id")
        or _id(conversation, "inbox_id")
        or _id(latest, "inbox_id"),
        inbox_name=_string(body, "inbox", "name"),
        channel=_string(conversation, "channel"),
        conversation_id=_id(conversation, "id") if is_conversation else None,
        contacts=frozenset(name for contact in _contacts(body) for name in aliases(contact)),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


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
    """Yield every object of the body as a contact, level by level."""
    level: list[Any] = [body]
    for _ in range(MAX_NESTING):
        objects = [item for item in level if isinstance(item, dict)]
        for item in objects:
            yield Contact(
                identifier=_string(item, "identifier"), phone_number=_string(item, "phone_number")
            )
        lists = [item for item in level if isinstance(item, list)]
        level = [v for o in objects for v in o.values()] + [v for some in lists for v in some]
