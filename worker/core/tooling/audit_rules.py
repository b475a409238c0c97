"""What `audit` finds wrong with the keys and documents of the cache."""

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from worker.core import bot_contact
from worker.core.binding_rules import Bindings, inbox_key
from worker.core.cache_keys import KeyKind, ParsedKey
from worker.core.document_views import is_of_bot
from worker.core.documents import Document

Problem = Literal[
    "foreign",
    "immortal",
    "wrong_type",
    "unreadable",
    "misplaced",
    "wrong_account",
    "wrong_inbox",
    "bot_contact",
]


class AuditFinding(Struct, frozen=True):
    """A problem of a key; `detail` names instances and inboxes, never text of people."""

    key: str
    problem: Problem
    detail: str


_OF_BOT: Final = "it belongs to Evolution's bot contact, whose messages may contain pairing codes"

_TYPES: Final[dict[KeyKind, str]] = {
    "message": "string",
    "conversation": "string",
    "source": "string",
    "contact": "string",
    "timeline": "zset",
    "start": "string",
}


def examine_document(
    place: ParsedKey, document: Document | None, bindings: Bindings
) -> Iterator[tuple[Problem, str]]:
    """Yield what is wrong with a document."""
    if document is None:
        yield "unreadable", "the value is not a document"
        return
    if is_of_bot(document):
        yield "bot_contact", _OF_BOT
    if document.instance != place.instance or str(document.id) != place.id:
        yield "misplaced", f"the document is of {document.instance!r}, id {document.id}"
    owner = bindings.accounts.get(place.instance)
    if owner != document.account_id:
        other = "no account" if owner is None else f"account {owner}"
        detail = f"the document is of account {document.account_id}, the instance of {other}"
        yield "wrong_account", detail
    inbox = inbox_key(document.account_id, document.inbox_id)
    bound = bindings.instances.get(inbox)
    if bound != place.instance:
        state = "is not bound" if bound is None else f"is bound to {bound!r}"
        yield "wrong_inbox", f"the document is of inbox {inbox}, which {state}"


def examine_key(
    place: ParsedKey | None, *, shared: bool, type_name: str, ttl_ms: int
) -> Iterator[tuple[Problem, str]]:
    """Yield what is wrong with a key, whatever its value."""
    if place is None and not shared:
        yield "foreign", "this program does not write such a key"
    if ttl_ms < 0:
        yield "immortal", "the key has no time to live"
    if place and type_name != _TYPES[place.kind]:
        yield "wrong_type", f"the type is {type_name}, and should be {_TYPES[place.kind]}"


def examine_pointer(place: ParsedKey, value: bytes | None) -> Iterator[tuple[Problem, str]]:
    """Yield what is wrong with a key whose value is the id of a document."""
    if place.kind == "contact" and place.id == bot_contact.NUMBER:
        yield "bot_contact", _OF_BOT
    if value is not None and not value.isdigit():
        yield "unreadable", "the value is not an id"
