"""Parses the path and the query of a read. Nothing is guessed, nothing is ignored.

It works on the raw path, because in a decoded path the `%2F` of a name looks like a separator.
`PARAMETERS` states each query parameter once: `openapi` describes them from the same table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import unquote_to_bytes

from worker.core.history.human_activity import DEFAULT_WINDOW_S, MAX_WINDOW_S
from worker.core.history.message_page import MessageRange
from worker.core.stream_entry import MAX_ID
from worker.web.http_error import HttpError

ROOT: Final = b"/instances/"

MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 20
MAX_WAIT_MS: Final = 5000
DEFAULT_WAIT_MS: Final = 2000

NAME_BYTES: Final = 255
ID_BYTES: Final = 1024
"""As long as an e-mail's message id may be, which is the longest source id there is."""

ReadKind = Literal["message", "source", "conversation", "messages", "contact"]
Schema = Mapping[str, Any]

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NUMBER: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


def integer_schema(
    description: str, minimum: int = 1, maximum: int = MAX_ID, default: int | None = None
) -> Schema:
    """Return the JSON schema of an integer, by default of a Chatwoot id."""
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    defaults = {} if default is None else {"default": default}
    return {**schema, **defaults, "description": description}


def text_schema(description: str, max_bytes: int = ID_BYTES) -> Schema:
    """Return the JSON schema of a text without NUL."""
    schema = {"type": "string", "minLength": 1, "maxLength": max_bytes, "pattern": r"^[^\x00]+$"}
    return {**schema, "description": description}


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read; `target` is a Chatwoot id, a source id or a contact, depending on `kind`."""

    kind: ReadKind
    instance: str
    target: str
    private: bool = False
    limit: int = DEFAULT_LIMIT
    before: int | None = None
    after: int | None = None
    format: Literal["json", "chat"] = "json"
    wait_for: str | None = None
    wait_ms: int = DEFAULT_WAIT_MS
    human_window_s: int = DEFAULT_WINDOW_S

    @property
    def id(self) -> int:
        """The target of a kind that is read by a Chatwoot id."""
        return int(self.target)

    @property
    def range(self) -> MessageRange:
        """The requested messages of a conversation."""
        return MessageRange(self.limit, self.before, self.after)


@dataclass(frozen=True, slots=True)
class ReadPath:
    """The raw parts of a known path."""

    kind: ReadKind
    instance: bytes
    target: bytes = b""


def match_path(raw_path: bytes) -> ReadPath | None:
    """Return the parts of a path, None for an unknown path."""
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
    """Parse path and query. Raises `HttpError` (422), which names the invalid part."""
    instance = _decode(path.instance, "the instance in the path", NAME_BYTES)
    values = _parse_query(query, PARAMETERS[path.kind])
    target = values.pop("source_id", None) or _decode(path.target, "the path", ID_BYTES)
    if path.kind not in ("source", "contact"):
        _parse_integer(target, "the id in the path", 1, MAX_ID)
    return ReadRequest(path.kind, instance, target, **values)


def parse_id(text: str) -> int | None:
    """Return a Chatwoot id, None for any other text."""
    number = int(text) if _NUMBER.fullmatch(text) else 0
    return number if 1 <= number <= MAX_ID else None


def _parse_query(query: bytes, parameters: Mapping[str, Schema]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in query.split(b"&") if query else ():
        raw_name, _, value = pair.partition(b"=")
        name = raw_name.decode("ascii", "replace")
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise _unprocessable(f"the query has an unknown parameter; known here: {known}")
        if name in values:
            raise _unprocessable(f"{name} occurs twice")
        values[name] = _parse_value(_decode(value, name, ID_BYTES), name, parameters[name])
    if "source_id" in parameters and "source_id" not in values:
        raise _unprocessable("source_id is missing: add ?source_id=…")
    return values


def _decode(raw: bytes, name: str, max_bytes: int) -> str:
    """Decode one level of %XX, strictly. A `+` stays a `+`: no value has a space."""
    if _BAD_ESCAPE.search(raw):
        raise _unprocessable(
            f"{name} has a % that is not followed by two hexadecimal digits: write %25"
        )
    decoded = unquote_to_bytes(raw)
    if not 1 <= len(decoded) <= max_bytes:
        raise _unprocessable(f"{name} must be 1 to {max_bytes} bytes long")
    if b"\0" in decoded:
        raise _unprocessable(f"{name} must not contain a NUL")
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise _unprocessable(f"{name} must be percent-encoded UTF-8") from None


def _parse_value(text: str, name: str, schema: Schema) -> Any:
    if schema["type"] == "integer":
        return _parse_integer(text, name, schema["minimum"], schema["maximum"])
    is_flag = schema["type"] == "boolean"
    choices = ("true", "false") if is_flag else schema.get("enum")
    if choices and text not in choices:
        raise _unprocessable(f"{name} must be {' or '.join(choices)}")
    return text == "true" if is_flag else text


def _parse_integer(text: str, name: str, minimum: int, maximum: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if not minimum <= number <= maximum:
        raise _unprocessable(f"{name} must be a whole number from {minimum} to {maximum}")
    return number


def _unprocessable(message: str) -> HttpError:
    return HttpError(422, "bad_parameter", message)


_PRIVATE: Final[Schema] = {
    "type": "boolean",
    "description": "Include private notes; only with CHATWOOT_CACHE_HTTP_API_KEY.",
}
_FORMAT: Final[Schema] = {
    "type": "string",
    "enum": ["json", "chat"],
    "default": "json",
    "description": "`chat`: an array of role and content, for a language model.",
}
_PAGE: Final[Mapping[str, Schema]] = {
    "limit": integer_schema(
        "Maximum number of messages: the newest, or the oldest with only `after`.",
        minimum=1,
        maximum=MAX_LIMIT,
        default=DEFAULT_LIMIT,
    ),
    "before": integer_schema("Only messages before this id."),
    "after": integer_schema("Only messages after this id."),
    "private": _PRIVATE,
    "format": _FORMAT,
    "wait_for": text_schema("Wait until the cache has this message, by Chatwoot or WhatsApp id."),
    "wait_ms": integer_schema(
        "Maximum time to wait, in milliseconds.", 0, MAX_WAIT_MS, DEFAULT_WAIT_MS
    ),
    "human_window_s": integer_schema(
        "How long a person counts as active after a message, in seconds.",
        maximum=MAX_WINDOW_S,
        default=DEFAULT_WINDOW_S,
    ),
}
_SOURCE: Final[Mapping[str, Schema]] = {
    "source_id": text_schema("WAID:…, or the bare WhatsApp id of the message."),
    "private": _PRIVATE,
}
PARAMETERS: Final[Mapping[ReadKind, Mapping[str, Schema]]] = {
    "message": {"private": _PRIVATE},
    "source": _SOURCE,
    "conversation": {},
    "messages": _PAGE,
    "contact": _PAGE,
}
"""The query parameters of each read, as JSON schemas."""
