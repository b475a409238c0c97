"""The key layout. Nothing else in the project formats a key.

    <prefix>:chatwoot:<instance>:message:<message id>               document
    <prefix>:chatwoot:<instance>:source:<source id>                 message id
    <prefix>:chatwoot:<instance>:conversation:<display id>          document
    <prefix>:chatwoot:<instance>:conversation:<display id>:messages message ids in order
    <prefix>:chatwoot:<instance>:contact:<identifier or digits>     display id
    <prefix>:chatwoot:%bindings   <prefix>:chatwoot:%accounts       who is cached where

Names that users choose are escaped, so that no `:` in one can look like a separator
and no glob character can widen a SCAN.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from worker.core.model import Contact, Conversation, Document, Message

MAX_NAME_BYTES = 255

_SPECIAL = re.compile(r"[%:*?\[\]{}\\\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")
_DIGITS = re.compile(r"[0-9]")


def escape(name: str) -> str:
    r"""Write `% : * ? [ ] { } \` and control characters as `%XX` of their UTF-8 bytes.

    Injective and reversible; every other character stays as it is.
    """
    return _SPECIAL.sub(_percent, name)


def unescape(name: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), name)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


class Location(NamedTuple):
    """Where a document lives: its own key, its timeline, and the keys that point to it by id."""

    key: str
    timeline: str | None
    pointers: list[str]


class Keys:
    """Builds the keys of one prefix, which all begin with `root`."""

    def __init__(self, prefix: str) -> None:
        self.root = f"{prefix}:chatwoot:"
        self.bindings = f"{self.root}%bindings"
        self.accounts = f"{self.root}%accounts"
        self._of = lru_cache(maxsize=4096)(self._namespace)

    def _namespace(self, instance: str) -> str:
        return f"{self.root}{escape(instance)}:"

    def message(self, instance: str, message_id: int) -> str:
        """Return the key of a message document."""
        return f"{self.message_stem(instance)}{message_id}"

    def message_stem(self, instance: str) -> str:
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

    def contact(self, instance: str, name: str) -> str:
        """Return the key that holds the newest conversation with a JID or digits."""
        return f"{self._of(instance)}contact:{escape(name)}"

    def instance_pattern(self, instance: str) -> str:
        """Return a SCAN pattern that matches the keys of this instance and no others."""
        return f"{self._of(instance)}*"

    def locate(self, document: Document) -> Location:
        """Return every key that a document touches."""
        if isinstance(document, Message):
            return self._locate_message(document)
        return self._locate_conversation(document)

    def _locate_message(self, message: Message) -> Location:
        instance, source_id = message.instance, message.source_id
        return Location(
            self.message(instance, message.id),
            self.timeline(instance, message.conversation_id),
            [] if source_id is None else [self.source(instance, source_id)],
        )

    def _locate_conversation(self, conversation: Conversation) -> Location:
        instance = conversation.instance
        return Location(
            self.conversation(instance, conversation.id),
            None,
            [self.contact(instance, name) for name in contact_names(conversation.contact)],
        )


def digits_of(phone_number: str) -> str:
    """Return the ASCII digits of a phone number, without `+`, spaces and dashes."""
    return "".join(_DIGITS.findall(phone_number))


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
