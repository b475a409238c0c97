"""The layout of the cache's keys. No other module builds or parses them.

    <prefix>:chatwoot:<instance>:message:<message id>               document
    <prefix>:chatwoot:<instance>:source:<source id>                 message id
    <prefix>:chatwoot:<instance>:conversation:<display id>          document
    <prefix>:chatwoot:<instance>:conversation:<display id>:messages message ids in order
    <prefix>:chatwoot:<instance>:conversation:<display id>:start    id of its first message
    <prefix>:chatwoot:<instance>:contact:<identifier or digits>     display id
    <prefix>:chatwoot:%bindings   …:%accounts   …:%version          which inbox is which instance

Names that users choose are escaped, so that a `:` in a name is no separator and a glob character
does not widen a SCAN.
"""

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from worker.core.contact_identifiers import index_identifiers
from worker.core.documents import Document, Message

MAX_NAME_BYTES = 255

_SPECIAL = re.compile(r"[*?\[\]{}\\\x00-\x1f\x7f-\x9f]")
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")


def escape(name: str) -> str:
    r"""Percent-encode `% : * ? [ ] { } \` and control characters as UTF-8; reversible."""
    if name.isalnum():
        return name
    # str.replace is the fastest way for `:`, which is in nearly every source id; `%` must be first.
    return _SPECIAL.sub(_percent, name.replace("%", "%25").replace(":", "%3A"))


def unescape(name: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), name)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


DocumentKeys = tuple[str, str | None, list[str]]
"""A document's own key, its timeline, and its pointers: keys that hold its id."""

KeyKind = Literal["message", "source", "conversation", "timeline", "start", "contact"]


class ParsedKey(NamedTuple):
    """The meaning of a key; `id` is a number, a source id or a contact's name."""

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
    """Return the key of a stream's dead-letter stream."""
    return f"{stream}:dead"


def backfill_key(stream: str, instance: str) -> str:
    """Return the key of the backfill checkpoint of an instance."""
    return f"{stream}:backfill:{escape(instance)}"


def is_nested_prefix(prefix: str) -> bool:
    """Say whether a prefix's keys could be read as those of an instance of another prefix."""
    return ":chatwoot:" in f"{prefix}:"


class CacheKeys:
    """Builds and parses the keys of one prefix, which all begin with `root`."""

    def __init__(self, prefix: str) -> None:
        self.root = f"{prefix}:chatwoot:"
        self.bindings = f"{self.root}%bindings"
        self.accounts = f"{self.root}%accounts"
        self.version = f"{self.root}%version"
        self.pattern = f"{self.root}*"
        """A SCAN pattern of all keys of the prefix."""
        self.shared = frozenset((self.bindings, self.accounts, self.version))
        """The keys of no instance; an escaped name cannot begin with `%`."""
        self._namespace = lru_cache(maxsize=4096)(self._build_namespace)

    def _build_namespace(self, instance: str) -> str:
        return f"{self.root}{escape(instance)}:"

    def message(self, instance: str, message_id: int) -> str:
        """Return the key of a message document."""
        return f"{self.message_prefix(instance)}{message_id}"

    def message_prefix(self, instance: str) -> str:
        """Return the key of a message document without the id."""
        return f"{self._namespace(instance)}message:"

    def source(self, instance: str, source_id: str) -> str:
        """Return the key that holds the id of the message with this source id."""
        return f"{self._namespace(instance)}source:{escape(source_id)}"

    def conversation(self, instance: str, display_id: int) -> str:
        """Return the key of a conversation document."""
        return f"{self._namespace(instance)}conversation:{display_id}"

    def timeline(self, instance: str, display_id: int) -> str:
        """Return the key of a conversation's sorted set of message ids."""
        return f"{self._namespace(instance)}conversation:{display_id}:messages"

    def start(self, instance: str, display_id: int) -> str:
        """Return the key that holds the id of a conversation's first message, if it is known."""
        return f"{self._namespace(instance)}conversation:{display_id}:start"

    def contact(self, instance: str, name: str) -> str:
        """Return the key that holds a contact's newest conversation, by JID or digits."""
        return f"{self._namespace(instance)}contact:{escape(name)}"

    def instance_pattern(self, instance: str) -> str:
        """Return a SCAN pattern that matches the keys of this instance and no others."""
        return f"{self._namespace(instance)}*"

    def parse(self, key: bytes) -> ParsedKey | None:
        """Return the meaning of a key; None if this class would not have built it."""
        try:
            text = key.decode()
            parts = text.removeprefix(self.root).split(":")
            instance, kind, *path = map(unescape, parts)
        except ValueError:
            return None
        if not text.startswith(self.root) or parts != list(map(escape, (instance, kind, *path))):
            return None
        return _parse_place(instance, kind, path)

    def locate(self, document: Document) -> DocumentKeys:
        """Return the keys of a document and its indexes, as the methods above, but faster."""
        namespace = self._namespace(document.instance)
        if isinstance(document, Message):
            source_id = document.source_id
            return (
                f"{namespace}message:{document.id}",
                f"{namespace}conversation:{document.conversation_id}:messages",
                [] if source_id is None else [f"{namespace}source:{escape(source_id)}"],
            )
        return (
            f"{namespace}conversation:{document.id}",
            None,
            [f"{namespace}contact:{escape(name)}" for name in index_identifiers(document.contact)],
        )


def _parse_place(instance: str, kind: str, path: list[str]) -> ParsedKey | None:
    if not (instance and path):
        return None
    name, *more = path
    numbered = _NUMBERED.get((kind, *more))
    if numbered and _NUMBER.fullmatch(name):
        return ParsedKey(instance, numbered, name)
    if kind in _NAMED and not more:
        return ParsedKey(instance, _NAMED[kind], name)
    return None
