"""What a read asks for, out of the raw path and the query; nothing is guessed, nothing ignored.

On the raw path, because in the decoded one a `%2F` of a name looks like a separator.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import unquote_to_bytes

from worker.core.message_page import MessageRange
from worker.core.stream_entry import MAX_ID
from worker.web.http_error import HttpError

ROOT: Final = b"/instances/"

MAX_LIMIT: Final = 200
MAX_WAIT_MS: Final = 5000
DEFAULT_WAIT_MS: Final = 2000
DEFAULT_LIMIT: Final = 20

NAME_BYTES: Final = 255
ID_BYTES: Final = 1024
"""As long as an e-mail's message id may be, which is the longest source id there is."""

ReadKind = Literal["message", "source", "conversation", "messages", "contact"]

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NUMBER: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read: `target` is an id, a source id or a contact, as text."""

    kind: ReadKind
    instance: str
    target: str
    private: bool = False
    limit: int = DEFAULT_LIMIT
    before: int | None = None
    after: int | None = None
    chat: bool = False
    wait_for: str | None = None
    wait_ms: int = DEFAULT_WAIT_MS

    @property
    def id(self) -> int:
        """The target as an id of Chatwoot's; raises Rejected (422)."""
        return _id(self.target, "the id in the path")

    @property
    def range(self) -> MessageRange:
        """Which messages of a conversation are meant."""
        return MessageRange(self.limit, self.before, self.after)


@dataclass(frozen=True, slots=True)
class ReadPath:
    """A path of ours, not read yet."""

    kind: ReadKind
    instance: bytes
    target: bytes = field(default=b"")


def as_id(text: str) -> int | None:
    """Return an id of Chatwoot's, None for what is none: then it is WhatsApp's."""
    number = int(text) if _NUMBER.fullmatch(text) else 0
    return number if 1 <= number <= MAX_ID else None


def match(raw_path: bytes) -> ReadPath | None:
    """Return what a path means by its segments, None where there is no such path."""
    match raw_path.removeprefix(ROOT).split(b"/") if raw_path.startswith(ROOT) else ():
        case [instance, b"messages"]:
            return ReadPath("source", instance)
        case [instance, b"messages", target]:
            return ReadPath("message", instance, target)
        case [instance, b"conversations", target]:
            return ReadPath("conversation", instance, target)
        case [instance, b"conversations", target, b"messages"]:
            return ReadPath("messages", instance, target)
        case [instance, b"contacts", target, b"messages"]:
            return ReadPath("contact", instance, target)
    return None


def parse_request(path: ReadPath, query: bytes) -> ReadRequest:
    """Read path and query; raises Rejected (422), which names what is wrong."""
    instance = _text(path.instance, "the instance in the path", NAME_BYTES)
    given = _parameters(query, _ALLOWED[path.kind])
    target = given.pop("source_id", None) or _text(path.target, "the path", ID_BYTES)
    question = ReadRequest(path.kind, instance, target, **given)
    if question.kind not in ("source", "contact"):
        _id(question.target, "the id in the path")
    return question


def _parameters(query: bytes, allowed: Mapping[str, Callable[[str, str], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        known = name.decode("ascii", "replace")
        if known not in allowed:
            names = ", ".join(allowed) or "none"
            raise _unfit(f"there is a parameter that is not known here; known: {names}")
        if known in _FIELDS and _FIELDS[known] in found:
            raise _unfit(f"{known} stands twice")
        found[_FIELDS[known]] = allowed[known](_text(value, known, ID_BYTES), known)
    if "source_id" in allowed and "source_id" not in found:
        raise _unfit("source_id is missing: add ?source_id=…")
    return found


def _text(raw: bytes, what: str, most: int) -> str:
    """Decode one level of %XX, strictly. A `+` is a `+`: none of our values has a space."""
    if _BAD_ESCAPE.search(raw):
        raise _unfit(f"{what} has a % that is not followed by two hexadecimal digits: write %25")
    decoded = unquote_to_bytes(raw)
    if not 1 <= len(decoded) <= most:
        raise _unfit(f"{what} must be 1 to {most} bytes long")
    if b"\0" in decoded:
        raise _unfit(f"{what} must not contain a NUL")
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise _unfit(f"{what} must be UTF-8, escaped by %") from None


def _id(text: str, what: str) -> int:
    return _number(text, what, 1, MAX_ID)


def _number(text: str, what: str, least: int, most: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if not least <= number <= most:
        raise _unfit(f"{what} must be a whole number from {least} to {most}")
    return number


def _limit(text: str, name: str) -> int:
    return _number(text, name, 1, MAX_LIMIT)


def _wait_ms(text: str, name: str) -> int:
    return _number(text, name, 0, MAX_WAIT_MS)


def _flag(text: str, name: str) -> bool:
    if text not in ("true", "false"):
        raise _unfit(f"{name} must be true or false")
    return text == "true"


def _is_chat(text: str, name: str) -> bool:
    if text not in ("json", "chat"):
        raise _unfit(f"{name} must be json or chat")
    return text == "chat"


def _plain(text: str, _name: str) -> str:
    return text


def _unfit(message: str) -> HttpError:
    return HttpError(422, "bad_parameter", message)


_LIST: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "limit": _limit,
    "before": _id,
    "after": _id,
    "private": _flag,
    "format": _is_chat,
    "wait_for": _plain,
    "wait_ms": _wait_ms,
}
_ALLOWED: Final[Mapping[ReadKind, Mapping[str, Callable[[str, str], Any]]]] = {
    "message": {"private": _flag},
    "source": {"source_id": _plain, "private": _flag},
    "conversation": {},
    "messages": _LIST,
    "contact": _LIST,
}
_FIELDS: Final = {name: name for allowed in _ALLOWED.values() for name in allowed} | {
    "format": "chat"
}
