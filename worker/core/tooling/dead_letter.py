"""A dead letter, read: why the entry is dead, what it was, and what may be shown of it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from worker.core.binding_rules import Bindings
from worker.core.stream_entry import Fields
from worker.core.tooling.entry_summary import EntrySummary, summarize_entry

_ADDED: Final = (b"_stream", b"_reason", b"_error", b"_attempts", b"_consumer", b"_at", b"_more")

_PLAIN: Final = frozenset(
    {"event", "message_type", "content_type", "channel", "status", "private", "file_type", "name"}
)
"""Members of a webhook body whose text is Chatwoot's or the operator's, but for people's names."""
_TIME = re.compile(r"[0-9TZ:.+ -]{10,40}|[0-9-]+T[0-9:.]+(Z|[+-][0-9:]+)")
_NAMED_BY_OPERATORS: Final = frozenset({"inbox", "account", "team"})


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
        """When it was buried, in Unix milliseconds."""
        return int(self.id.partition(b"-")[0])

    @property
    def first_ms(self) -> int:
        """When the entry was first on a stream, in Unix milliseconds."""
        first = self.fields.get(b"_id", self.id).partition(b"-")[0]
        return int(first) if first.isdigit() else self.buried_ms

    @cached_property
    def trace(self) -> EntrySummary:
        """What the entry is about."""
        return summarize_entry(self.fields)

    def original(self) -> dict[bytes, bytes]:
        """Return the entry's own fields, and `_id`, by which a replay knows its first place."""
        more = _surplus(self.fields.get(b"_more"))
        return {**{n: v for n, v in self.fields.items() if n not in _ADDED}, **more}

    def summary(self, bindings: Bindings) -> dict[str, Any]:
        """Return what a list shows: never what people wrote."""
        told = self.trace
        return {
            "id": self.id.decode(),
            "at": self._text(b"_at"),
            "reason": self.reason,
            "event": told.event,
            "inbox": told.inbox(bindings) or (told.inbox_id and f"?/{told.inbox_id}"),
            "instance": told.belongs_to(bindings) or told.instance or told.inbox_name,
            "attempts": self._text(b"_attempts"),
            "error": self._text(b"_error"),
        }

    def shown(self, bindings: Bindings, *, content: bool) -> dict[str, Any]:
        """Return all of it; what people wrote, and who they are, only with `content`."""
        payload = self.fields.get(b"payload", b"")
        others = {n: v for n, v in self.original().items() if n != b"payload"}
        return {
            **self.summary(bindings),
            "fields": {_readable(name): _readable(value) for name, value in others.items()},
            "payload": _decoded(payload) if content else mask_payload(payload),
        }

    def _text(self, field: bytes) -> str:
        return _readable(self.fields.get(field, b""))


def mask_payload(payload: bytes) -> Any:
    """Return a webhook body without texts, names and numbers of people; only its shape and ids."""
    body = _decoded(payload)
    return _mask(body) if isinstance(body, dict) else f"… {len(payload)} bytes that are no object"


def _mask(value: Any, member: str = "", of: str = "") -> Any:
    match value:
        case dict():
            return {name: _mask(inner, name, member) for name, inner in value.items()}
        case list():
            return [_mask(inner, member, of) for inner in value]
        case str() if value and not _may_be_shown(value, member, of):
            return f"… {len(value)} characters"
        case _:
            return value


def _may_be_shown(value: str, member: str, of: str) -> bool:
    if member == "name":
        return of in _NAMED_BY_OPERATORS
    return member in _PLAIN or (member.endswith("_at") and bool(_TIME.fullmatch(value)))


def _decoded(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _readable(payload)


def _readable(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _surplus(more: bytes | None) -> dict[bytes, bytes]:
    """Return the fields that did not fit beside the others, which are kept in one as JSON."""
    if more is None:
        return {}
    try:
        fields = msgspec.json.decode(more, type=dict[str, str])
        return {n.encode("latin-1"): v.encode("latin-1") for n, v in fields.items()}
    except (msgspec.DecodeError, UnicodeError):
        return {b"_more": more}
