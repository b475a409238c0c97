"""What may be wrong with a key of the namespace: it should never be, and `audit` looks."""

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
    """Something wrong with a key; `detail` names instances and inboxes, never what people wrote."""

    key: str
    problem: Problem
    detail: str


_OF_BOT: Final = "it belongs to Evolution's bot contact, whose messages may hold pairing codes"

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
    """Yield what is wrong with the document at a place."""
    if document is None:
        yield "unreadable", "the value is no document of ours"
        return
    if is_of_bot(document):
        yield "bot_contact", _OF_BOT
    if document.instance != place.instance or str(document.id) != place.id:
        yield "misplaced", f"the document says {document.instance!r}, id {document.id}"
    owner = bindings.accounts.get(place.instance)
    if owner != document.account_id:
        whose = "no account" if owner is None else f"account {owner}"
        yield (
            "wrong_account",
            f"the document is of account {document.account_id}, the instance of {whose}",
        )
    inbox = inbox_key(document.account_id, document.inbox_id)
    bound = bindings.instances.get(inbox)
    if bound != place.instance:
        where = "is bound to nothing" if bound is None else f"is bound to {bound!r}"
        yield "wrong_inbox", f"the document is of inbox {inbox}, which {where}"


def examine_key(
    place: ParsedKey | None, *, shared: bool, type_name: str, ttl_ms: int
) -> Iterator[tuple[Problem, str]]:
    """Yield what is wrong with a key, whatever stands there."""
    if place is None and not shared:
        yield "foreign", "this program writes no such key"
    if ttl_ms < 0:
        yield "immortal", "the key has no time to live"
    if place and type_name != _TYPES[place.kind]:
        yield "wrong_type", f"the key holds a {type_name}, and should hold a {_TYPES[place.kind]}"


def examine_pointer(place: ParsedKey, value: bytes | None) -> Iterator[tuple[Problem, str]]:
    """Yield what is wrong with a key that holds the id of a document."""
    if place.kind == "contact" and place.id == bot_contact.NUMBER:
        yield "bot_contact", _OF_BOT
    if value is not None and not value.isdigit():
        yield "unreadable", "the value is no id"
