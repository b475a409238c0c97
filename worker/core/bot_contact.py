"""Evolution's bot contact, whose conversation holds QR images and pairing codes.

Evolution creates one such contact per instance: name `EvolutionAPI`, phone number `+123456` and, in
2.3.7, no identifier; in other releases and installations the identifier `123456`. Its conversation
is never stored, so the contact is recognised by either.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

NUMBER: Final = "123456"

_PHONE_NUMBERS: Final = (NUMBER, f"+{NUMBER}")

_ESCAPED_DIGIT: Final = rb"\u003"
"""A JSON escape of a digit, which Chatwoot does not use."""

_STATED: Final = re.compile(rb'"(?:identifier|phone_number)"\s*:\s*"\+?123456"')


class _Body(Struct, gc=False):
    """The members of a webhook body that name people; the decoder skips all others."""

    identifier: Any = None
    phone_number: Any = None
    sender: Any = None
    contact: Any = None
    meta: Any = None
    messages: Any = None
    conversation: Any = None


_BODIES: Final = msgspec.json.Decoder(_Body)


def is_bot(identifier: object, phone_number: object) -> bool:
    """Say whether a contact with this identifier and phone number is the bot contact."""
    return identifier == NUMBER or phone_number in _PHONE_NUMBERS


def is_about_bot(payload: bytes) -> bool:
    """Say whether the bot contact is a webhook body's sender or contact.

    Attributes that users and integrations set are ignored. A body that is not JSON is searched as
    text: it may be part of one that holds a code.
    """
    # Takes a fraction of a microsecond, and decides nearly all bodies.
    if NUMBER.encode() not in payload and _ESCAPED_DIGIT not in payload:
        return False
    try:
        body = _BODIES.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _STATED.search(payload) is not None
    return any(
        is_bot(person.get("identifier"), person.get("phone_number"))
        for person in (*_people(asdict(body)), *_people(body.conversation))
        if isinstance(person, dict)
    )


def _people(body: Any) -> Iterator[Any]:
    """Yield the values of a body or conversation that name people."""
    if not isinstance(body, dict):
        return
    yield body
    yield body.get("sender")
    yield body.get("contact")
    yield _sender(body.get("meta"))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        yield _sender(message)


def _sender(value: Any) -> Any:
    return value.get("sender") if isinstance(value, dict) else None
