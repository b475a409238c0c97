"""A dead letter: the reason, the original entry, and what may be shown of it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from worker.core.binding_rules import Bindings
from worker.core.stream_entry import Fields
from worker.core.tooling.entry_summary import EntrySummary, decode_leniently, summarize_entry

_ADDED: Final = (b"_stream", b"_reason", b"_error", b"_attempts", b"_consumer", b"_at", b"_more")

_SHOWN: Final = frozenset(
    {"event", "message_type", "content_type", "channel", "status", "private", "file_type", "name"}
)
"""Members of a webhook body whose text is not of people, except `name` of a person."""
_NAMED_BY_OPERATORS: Final = frozenset({"inbox", "account", "team"})
_TIME: Final = re.compile(r"[0-9TZ:.+ -]{10,40}|[0-9-]+T[0-9:.]+(Z|[+-][0-9:]+)")


@dataclass(frozen=True)
class DeadLetter:
    """An entry of the dead-letter stream."""

    id: bytes
    fields: Fields

    @property
    def reason(self) -> str:
        """Why the entry is dead."""
        return self._text(b"_reason")

    @property
    def buried_ms(self) -> int:
        """When it became a dead letter, in Unix milliseconds."""
        return int(self.id.partition(b"-")[0])

    @property
    def first_ms(self) -> int:
        """When the original entry was first on a stream, in Unix milliseconds."""
        first = self.fields.get(b"_id", self.id).partition(b"-")[0]
        return int(first) if first.isdigit() else self.buried_ms

    @cached_property
    def entry(self) -> EntrySummary:
        """What the original entry is about."""
        return summarize_entry(self.fields)

    def original(self) -> dict[bytes, bytes]:
        """Return the original fields, with `_id`: a replayed entry keeps its first id."""
        more = _unpack(self.fields.get(b"_more"))
        return {**{n: v for n, v in self.fields.items() if n not in _ADDED}, **more}

    def summary(self, bindings: Bindings) -> dict[str, Any]:
        """Return a row of a list, without text of people."""
        entry = self.entry
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
        """Return everything; texts, names and numbers of people only with `content`."""
        payload = self.fields.get(b"payload", b"")
        others = {n: v for n, v in self.original().items() if n != b"payload"}
        decoded = decode_leniently(payload)
        shown = _readable(payload) if decoded is None else decoded
        return {
            **self.summary(bindings),
            "fields": {_readable(name): _readable(value) for name, value in others.items()},
            "payload": shown if content else mask_payload(payload),
        }

    def _text(self, field: bytes) -> str:
        return _readable(self.fields.get(field, b""))


def mask_payload(payload: bytes) -> Any:
    """Return a webhook body with the texts, names and numbers of people masked."""
    body = decode_leniently(payload)
    return _mask(body) if isinstance(body, dict) else f"… {len(payload)} bytes that are no object"


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


def _readable(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _unpack(more: bytes | None) -> dict[bytes, bytes]:
    """Return the fields that were packed into `_more` as JSON, because there were too many."""
    if more is None:
        return {}
    try:
        fields = msgspec.json.decode(more, type=dict[str, str])
        return {n.encode("latin-1"): v.encode("latin-1") for n, v in fields.items()}
    except (msgspec.DecodeError, UnicodeError):
        return {b"_more": more}
