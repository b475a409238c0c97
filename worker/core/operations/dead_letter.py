"""Parses dead letters: why an entry was buried, what it is about, and what may be shown of it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from worker.core.binding_rules import Bindings
from worker.core.operations.entry_summary import EntrySummary, summarize_entry
from worker.core.stream_entry import Fields

_ADDED: Final = (b"_stream", b"_reason", b"_error", b"_attempts", b"_consumer", b"_at", b"_more")

_SHOWN: Final = frozenset(
    {"event", "message_type", "content_type", "channel", "status", "private", "file_type"}
)
"""Members of a webhook body whose text is chosen by Chatwoot."""
_TIME = re.compile(r"[0-9TZ:.+ -]{10,40}|[0-9-]+T[0-9:.]+(Z|[+-][0-9:]+)")
_NAMED_BY_OPERATORS: Final = frozenset({"inbox", "account", "team"})


@dataclass(frozen=True)
class DeadLetter:
    """An entry of the dead-letter stream."""

    id: bytes
    fields: Fields

    @property
    def reason(self) -> str:
        """Why the entry was buried."""
        return self._text(b"_reason")

    @property
    def buried_ms(self) -> int:
        """When it was buried, in Unix milliseconds."""
        return int(self.id.partition(b"-")[0])

    @property
    def first_ms(self) -> int:
        """When the entry was first added to a stream, in Unix milliseconds."""
        ms = self.fields.get(b"_id", self.id).partition(b"-")[0]
        return int(ms) if ms.isdigit() else self.buried_ms

    @cached_property
    def entry_summary(self) -> EntrySummary:
        """What the entry is about."""
        return summarize_entry(self.fields)

    def original(self) -> dict[bytes, bytes]:
        """Return the entry's own fields, and `_id`, which a replay needs to keep its order."""
        original = {n: v for n, v in self.fields.items() if n not in _ADDED}
        return original | _overflow(self.fields.get(b"_more"))

    def summary(self, bindings: Bindings) -> dict[str, Any]:
        """Return the columns of a list, without message texts."""
        entry = self.entry_summary
        return {
            "id": self.id.decode(),
            "at": self._text(b"_at"),
            "reason": self.reason,
            "event": entry.event,
            "inbox": entry.inbox(bindings) or (entry.inbox_id and f"?/{entry.inbox_id}"),
            "instance": entry.belongs_to(bindings) or entry.instance or entry.inbox_name,
            "attempts": self._text(b"_attempts"),
            "error": self._text(b"_error"),
        }

    def details(self, bindings: Bindings, *, content: bool) -> dict[str, Any]:
        """Return everything; texts and personal data only with `content`."""
        payload = self.fields.get(b"payload", b"")
        others = {n: v for n, v in self.original().items() if n != b"payload"}
        return {
            **self.summary(bindings),
            "fields": {_readable(name): _readable(value) for name, value in others.items()},
            "payload": _decode(payload) if content else mask_payload(payload),
        }

    def _text(self, field: bytes) -> str:
        return _readable(self.fields.get(field, b""))


def mask_payload(payload: bytes) -> Any:
    """Return the structure and ids of a webhook body, without texts and personal data."""
    body = _decode(payload)
    return _mask(body) if isinstance(body, dict) else f"… {len(payload)} bytes, not an object"


def _mask(value: Any, member: str = "", parent: str = "") -> Any:
    match value:
        case dict():
            return {name: _mask(inner, name, member) for name, inner in value.items()}
        case list():
            return [_mask(inner, member, parent) for inner in value]
        case str() if value and not _may_be_shown(value, member, parent):
            return f"… {len(value)} characters"
        case _:
            return value


def _may_be_shown(value: str, member: str, parent: str) -> bool:
    if member == "name":
        return parent in _NAMED_BY_OPERATORS
    return member in _SHOWN or (member.endswith("_at") and bool(_TIME.fullmatch(value)))


def _decode(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _readable(payload)


def _readable(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _overflow(more: bytes | None) -> dict[bytes, bytes]:
    """Return the fields beyond the field limit, which are stored as JSON in one field."""
    if more is None:
        return {}
    try:
        fields = msgspec.json.decode(more, type=dict[str, str])
        return {n.encode("latin-1"): v.encode("latin-1") for n, v in fields.items()}
    except (msgspec.DecodeError, UnicodeError):
        return {b"_more": more}
