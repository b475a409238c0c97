"""The rules of `audit`: what may be wrong with a key of the prefix."""

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from worker.core import bot_contact
from worker.core.binding_rules import Bindings, inbox_key
from worker.core.cache_keys import KeyKind, ParsedKey
from worker.core.documents import Document
from worker.core.history.document_views import is_of_bot

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
    """A problem of a key; `detail` names instances and inboxes, never message texts."""

    key: str
    problem: Problem
    detail: str


_BOT_CONTACT: Final = "it belongs to Evolution's bot contact, whose messages may hold pairing codes"

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
    """Yield the problems of the document at a key."""
    if document is None:
        yield "unreadable", "the value is not a document of this program"
        return
    if is_of_bot(document):
        yield "bot_contact", _BOT_CONTACT
    if document.instance != place.instance or str(document.id) != place.id:
        yield "misplaced", f"the document is of instance {document.instance!r}, id {document.id}"
    owner = bindings.accounts.get(place.instance)
    if owner != document.account_id:
        account = "no account" if owner is None else f"account {owner}"
        yield (
            "wrong_account",
            f"the document is of account {document.account_id}, the instance of {account}",
        )
    inbox = inbox_key(document.account_id, document.inbox_id)
    bound = bindings.instances.get(inbox)
    if bound != place.instance:
        binding = "is not bound" if bound is None else f"is bound to {bound!r}"
        yield "wrong_inbox", f"the document is of inbox {inbox}, which {binding}"


def examine_key(
    place: ParsedKey | None, *, shared: bool, type_name: str, ttl_ms: int
) -> Iterator[tuple[Problem, str]]:
    """Yield the problems of a key that do not depend on its value."""
    if place is None and not shared:
        yield "foreign", "this program does not write such keys"
    if ttl_ms < 0:
        yield "immortal", "the key has no TTL"
    if place and type_name != _TYPES[place.kind]:
        yield "wrong_type", f"the key is a {type_name}, and should be a {_TYPES[place.kind]}"


def examine_pointer(place: ParsedKey, value: bytes | None) -> Iterator[tuple[Problem, str]]:
    """Yield the problems of a key that holds the id of a document."""
    if place.kind == "contact" and place.id == bot_contact.NUMBER:
        yield "bot_contact", _BOT_CONTACT
    if value is not None and not value.isdigit():
        yield "unreadable", "the value is not an id"
