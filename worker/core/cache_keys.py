"""The key layout. Nothing else in the project formats a key.

    <prefix>:chatwoot:<instance>:message:<message id>               document
    <prefix>:chatwoot:<instance>:source:<source id>                 message id
    <prefix>:chatwoot:<instance>:conversation:<display id>          document
    <prefix>:chatwoot:<instance>:conversation:<display id>:messages message ids in order
    <prefix>:chatwoot:<instance>:conversation:<display id>:start    id of its first message
    <prefix>:chatwoot:<instance>:contact:<identifier or digits>     display id
    <prefix>:chatwoot:%bindings   …:%accounts   …:%version          who is cached where

Names that users choose are escaped, so that no `:` in one can look like a separator
and no glob character can widen a SCAN.
"""

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from worker.core.documents import Contact, Conversation, Document, Message

MAX_NAME_BYTES = 255

_RARE = re.compile(r"[*?\[\]{}\\\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")
_DIGITS = re.compile(r"[0-9]")


def escape(name: str) -> str:
    r"""Write `% : * ? [ ] { } \` and control characters as `%XX` of their UTF-8 bytes.

    Injective and reversible; every other character stays as it is.
    """
    if name.isalnum():
        return name
    # `:` is in nearly every source id, and costs least this way; `%` must come first.
    return _RARE.sub(_percent, name.replace("%", "%25").replace(":", "%3A"))


def unescape(name: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), name)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


DocumentKeys = tuple[str, str | None, list[str]]
"""Where a document lives: its own key, its timeline, and the keys that point to it by id."""

KeyKind = Literal["message", "source", "conversation", "timeline", "start", "contact"]


class ParsedKey(NamedTuple):
    """What a key stands for; `id` is a number's digits, a source id or a contact's name."""

    instance: str
    kind: KeyKind
    id: str


_NUMBERED: Final[dict[tuple[str, ...], KeyKind]] = {
    ("message",): "message",
    ("conversation",): "conversation",
    ("conversation", "messages"): "timeline",
    ("conversation", "start"): "start",
}
_NAMED: Final[dict[str, KeyKind]] = {"source": "source", "contact": "contact"}
_NUMBER = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)


def dead_key(stream: str) -> str:
    """Return the key of a stream's dead letters."""
    return f"{stream}:dead"


def backfill_key(stream: str, instance: str) -> str:
    """Return the key of how far the backfill of an instance has come."""
    return f"{stream}:backfill:{escape(instance)}"


def is_nested_prefix(prefix: str) -> bool:
    """Say whether a prefix would put its keys among those of an instance of another prefix."""
    return ":chatwoot:" in f"{prefix}:"


class CacheKeys:
    """Builds the keys of one prefix, which all begin with `root`, and reads them."""

    def __init__(self, prefix: str) -> None:
        self.root = f"{prefix}:chatwoot:"
        self.bindings = f"{self.root}%bindings"
        self.accounts = f"{self.root}%accounts"
        self.version = f"{self.root}%version"
        self.pattern = f"{self.root}*"
        """A SCAN pattern that matches every key of the prefix."""
        self.shared = frozenset((self.bindings, self.accounts, self.version))
        """The keys that belong to no instance; `%` cannot begin an escaped name."""
        self._of = lru_cache(maxsize=4096)(self._namespace)

    def _namespace(self, instance: str) -> str:
        return f"{self.root}{escape(instance)}:"

    def message(self, instance: str, message_id: int) -> str:
        """Return the key of a message document."""
        return f"{self.message_prefix(instance)}{message_id}"

    def message_prefix(self, instance: str) -> str:
        """Return what stands before the id in the key of a message document."""
        return f"{self._of(instance)}message:"

    def source(self, instance: str, source_id: str) -> str:
        """Return the key that holds the id of the message with this source id."""
        return f"{self._of(instance)}source:{escape(source_id)}"

    def conversation(self, instance: str, display_id: int) -> str:
        """Return the key of a conversation document."""
        return f"{self._of(instance)}conversation:{display_id}"

    def timeline(self, instance: str, display_id: int) -> str:
        """Return the key of a conversation's message ids."""
        return f"{self._of(instance)}conversation:{display_id}:messages"

    def start(self, instance: str, display_id: int) -> str:
        """Return the key that holds the id of a conversation's first message, where it is known."""
        return f"{self._of(instance)}conversation:{display_id}:start"

    def contact(self, instance: str, name: str) -> str:
        """Return the key that holds the newest conversation with a JID or digits."""
        return f"{self._of(instance)}contact:{escape(name)}"

    def instance_pattern(self, instance: str) -> str:
        """Return a SCAN pattern that matches the keys of this instance and no others."""
        return f"{self._of(instance)}*"

    def parse(self, key: bytes) -> ParsedKey | None:
        """Return what a key stands for, None when this class would not have built it."""
        try:
            text = key.decode()
            root, _, rest = text.partition(self.root)
            instance, kind, *path = (unescape(part) for part in rest.split(":"))
        except ValueError:
            return None
        place = None if root else _place(instance, kind, path)
        return place if place and self._key_of(place) == text else None

    def _key_of(self, place: ParsedKey) -> str:
        instance, kind, name = place
        match kind:
            case "message":
                return self.message(instance, int(name))
            case "conversation":
                return self.conversation(instance, int(name))
            case "timeline":
                return self.timeline(instance, int(name))
            case "start":
                return self.start(instance, int(name))
            case "source":
                return self.source(instance, name)
            case "contact":
                return self.contact(instance, name)

    def locate(self, document: Document) -> DocumentKeys:
        """Return every key that a document touches."""
        if isinstance(document, Message):
            return self._locate_message(document)
        return self._locate_conversation(document)

    def _locate_message(self, message: Message) -> DocumentKeys:
        # As the methods above would, with one look at the namespace: this runs for every event.
        of, source_id = self._of(message.instance), message.source_id
        return (
            f"{of}message:{message.id}",
            f"{of}conversation:{message.conversation_id}:messages",
            [] if source_id is None else [f"{of}source:{escape(source_id)}"],
        )

    def _locate_conversation(self, conversation: Conversation) -> DocumentKeys:
        of = self._of(conversation.instance)
        names = contact_names(conversation.contact)
        return (
            f"{of}conversation:{conversation.id}",
            None,
            [f"{of}contact:{escape(name)}" for name in names],
        )


def _place(instance: str, kind: str, path: list[str]) -> ParsedKey | None:
    if not (instance and path):
        return None
    name, *more = path
    numbered = _NUMBERED.get((kind, *more))
    if numbered and _NUMBER.fullmatch(name):
        return ParsedKey(instance, numbered, name)
    if kind in _NAMED and not more:
        return ParsedKey(instance, _NAMED[kind], name)
    return None


def digits_of(phone_number: str) -> str:
    """Return the ASCII digits of a phone number, without `+`, spaces and dashes."""
    digits = phone_number.removeprefix("+")
    return digits if digits.isascii() and digits.isdigit() else "".join(_DIGITS.findall(digits))


def contact_names(contact: Contact | None) -> list[str]:
    """Return the names a contact is found by: digits of the phone number, and the identifier.

    The identifier is left out where it says the same as the digits.
    """
    if contact is None:
        return []

    digits = digits_of(contact.phone_number or "")
    names = [digits] if digits else []
    if contact.identifier and contact.identifier != f"{digits}@s.whatsapp.net":
        names.append(contact.identifier)
    return names


def aliases(contact: Contact | None) -> set[str]:
    """Return every name that means a contact: its names, and what its identifier says besides."""
    if contact is None:
        return set()
    names = {*contact_names(contact), contact.identifier or ""}
    phone, at, server = (contact.identifier or "").partition("@")
    if at and server == "s.whatsapp.net":
        names.add(digits_of(phone))
    return names - {""}
