"""Webhook bodies that no Chatwoot sends: every text, key and number in them can be recognised."""

import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st

SECRET: Final = "SEGREDO"
"""Stands in every text that somebody could have written."""

NUMBER: Final = 76543219876
"""Stands for every number that says something about somebody."""

EVENT_NAMES: Final = (
    "message_created",
    "message_updated",
    "conversation_created",
    "conversation_updated",
    "conversation_status_changed",
)

_DROP: Final = object()


def secret_texts() -> st.SearchStrategy[str]:
    endings = st.text(st.characters(codec="utf-8"), max_size=5)
    return endings.map(lambda ending: f"{SECRET} {ending}")


_NESTS: Final = ((b"[", b"]"), (b'{"SEGREDO":', b"}"))

RAW: Final = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nul",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"1e308",
    b"-0",
    b"01",
    b"1.",
    b"9" * 30,
    b"-" + b"9" * 400,
    b"9" * 5000,
    b"18446744073709551616",
    b"0." + b"1" * 2000,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\ud83d\\ude00"',
    b'{"\\ud800": 1}',
    b'"\\u0000"',
    b'"\\x"',
    b'"SEGREDO',
    b'"SEGREDO \xff"',
    b'"SEGREDO \xed\xa0\x80"',
    b'"SEGREDO \x01"',
    b'{"SEGREDO": 76543219876, "SEGREDO": 1}',
    b"{SEGREDO: 1}",
    b"'SEGREDO'",
    b"[1,]",
    b"{,}",
    b"]",
    b"// SEGREDO",
    b"",
    *(
        opening * depth + b"1" + closing * depth
        for opening, closing in _NESTS
        for depth in (90, 99, 100, 101, 500, 3000, 20_000)
    ),
]
"""JSON values that a serialiser would not write, and some that are no JSON at all."""

ODD: Final[list[Any]] = [
    *(None, True, False, 0, -1, 1, 5, 2**53 - 1, 2**53, 2**63, 2**64, -(2**64), 10**100, NUMBER),
    *(1.5, -0.0, 1e22, 5e-324, float(NUMBER), "", "123456", "sent", str(NUMBER)),
    *(f"{SECRET} \x00 \u2028 \U0001f600", "2020-03-03 13:05:57 UTC", "message_created", "incoming"),
    *([], {}, [None], [[]], [{}], {"": None}, [SECRET], [NUMBER], {SECRET: NUMBER}, [{SECRET: {}}]),
    *({"deleted": True}, {"email": {"html_content": SECRET}}, {"id": NUMBER}, [{"id": None}]),
]
"""Values of every type JSON has, most of them wrong wherever they stand."""


def odd_values() -> st.SearchStrategy[Any]:
    """Values as those of `ODD`, within each other too."""
    scalars = st.one_of(
        st.sampled_from(ODD),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        secret_texts(),
    )
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(secret_texts(), inner, max_size=3)
        ),
        max_leaves=6,
    )


def bodies() -> st.SearchStrategy[dict[str, Any]]:
    """Well-formed bodies of every event, in which all open text is secret."""
    return st.sampled_from(EVENT_NAMES).map(_body)


def _body(name: str) -> dict[str, Any]:
    """Build a body in which no two members are the same object."""
    body: dict[str, Any] = json.loads(json.dumps(_shape(name)))
    return body


def _shape(name: str) -> dict[str, Any]:
    person = {
        "id": NUMBER,
        "name": SECRET,
        "identifier": f"{SECRET}@s.whatsapp.net",
        "phone_number": SECRET,
        "email": SECRET,
        "type": SECRET,
    }
    conversation: dict[str, Any] = {
        "id": NUMBER,
        "account": {"id": NUMBER, "name": SECRET},
        "inbox_id": NUMBER,
        "messages": [
            {
                "id": NUMBER,
                "account_id": NUMBER,
                "inbox_id": NUMBER,
                "updated_at": SECRET,
                "status": SECRET,
                "content": SECRET,
            }
        ],
        "meta": {"sender": person, "assignee": person, "team": person},
        "status": SECRET,
        "channel": SECRET,
        "labels": [SECRET],
        "priority": SECRET,
        "unread_count": NUMBER,
        "custom_attributes": {SECRET: {SECRET: [SECRET, NUMBER]}},
        "additional_attributes": {SECRET: SECRET},
        "can_reply": True,
        "created_at": NUMBER,
        "updated_at": NUMBER + 0.5,
        "last_activity_at": NUMBER,
        "timestamp": NUMBER,
        "waiting_since": NUMBER,
        "snoozed_until": SECRET,
    }
    if not name.startswith("message_"):
        return {**conversation, "event": name}
    attachment = {
        "id": NUMBER,
        "file_type": SECRET,
        "data_url": SECRET,
        "thumb_url": SECRET,
        "extension": SECRET,
        "file_size": NUMBER,
        "width": NUMBER,
        "height": NUMBER,
        "fallback_title": SECRET,
        "coordinates_lat": NUMBER,
        "coordinates_long": NUMBER,
        "transcribed_text": SECRET,
    }
    return {
        "account": {"id": NUMBER, "name": SECRET},
        "inbox": {"id": NUMBER, "name": SECRET},
        "id": NUMBER,
        "message_type": "incoming",
        "content_type": SECRET,
        "content": SECRET,
        "content_attributes": {
            SECRET: SECRET,
            "email": {"subject": SECRET, "html_content": SECRET},
        },
        "private": False,
        "source_id": SECRET,
        "sender": person,
        "attachments": [attachment],
        "created_at": SECRET,
        "conversation": conversation,
        "event": name,
    }


def broken_once(name: str) -> Iterator[bytes]:
    """Yield an event's body with each of its members broken in each way, one at a time."""
    body = _body(name)
    for holder, key in _members(body):
        whole = holder[key]
        holder[key] = "MARK"
        before, _, after = json.dumps(body).encode().partition(b'"MARK"')
        holder[key] = whole
        for token in (*RAW, *_ODD_WRITTEN):
            yield before + token + after
        if isinstance(holder, dict):
            yield json.dumps(_without(body, holder, key)).encode()


_ODD_WRITTEN: Final = [json.dumps(value).encode() for value in ODD]


def _without(value: Any, holder: Any, key: Any) -> Any:
    """Copy a body, leaving out one member of one of its objects."""
    if isinstance(value, dict):
        return {
            name: _without(inner, holder, key)
            for name, inner in value.items()
            if not (value is holder and name == key)
        }
    return [_without(item, holder, key) for item in value] if isinstance(value, list) else value


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Bodies with some members missing, of another type, unserialisable, twice or torn."""
    body = draw(bodies())
    tokens: dict[str, bytes] = {}
    for number in range(draw(st.integers(0, 3))):
        _change(draw, body, tokens, number)
    if draw(st.sampled_from([False] * 9 + [True])):
        body = draw(odd_values())
    text = json.dumps(body, ensure_ascii=draw(st.booleans())).encode()
    for mark, token in tokens.items():
        text = text.replace(mark.encode(), token)
    return draw(_torn(text))


def _change(draw: st.DrawFn, body: Any, tokens: dict[str, bytes], number: int) -> None:
    """Replace or drop one member, anywhere in a body."""
    holder, key = draw(st.sampled_from(_members(body)))
    value = draw(odd_values() | st.sampled_from(RAW) | st.just(_DROP))
    if value is _DROP:
        del holder[key]
    elif isinstance(value, bytes):
        mark = f'"token {number}"'
        tokens[mark] = value
        holder[key] = mark[1:-1]
    else:
        holder[key] = value


def _members(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a body, as its holder and the key there."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += _members(value[key])
    return found or [({"": None}, "")]


@st.composite
def _torn(draw: st.DrawFn, text: bytes) -> bytes:
    """Leave most bodies whole; cut, mark, double or spoil the others."""
    at = draw(st.integers(0, len(text)))
    spoil = draw(st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b'"', b"{", b"}"]))
    return draw(
        st.sampled_from(
            [
                *[text] * 12,
                text[:at],
                text[:at] + spoil + text[at:],
                b"\xef\xbb\xbf" + text,
                text + b"\n",
                text + b"{}",
                text.decode(errors="replace").encode("utf-16"),
                b'{"event": 76543219876,' + text[1:],
                text[:-1] + b', "event": "SEGREDO"}',
                text[:-1] + b', "event": "message_created", "id": "SEGREDO"}',
                text[:-1] + b', "id": 1, "id": null}',
            ]
        )
    )
