"""Evolution's bot contact, whose conversation holds QR images and pairing codes.

Evolution creates one such contact for each instance: name `EvolutionAPI`, phone number `+123456`
and, in 2.3.7, no identifier; other releases and installations have the identifier `123456`.
Nothing of its conversation is ever stored, so it is recognised by either.
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
"""How JSON may write a digit; Chatwoot does not."""

_STATED: Final = re.compile(rb'"(?:identifier|phone_number)"\s*:\s*"\+?123456"')


class _Body(Struct, gc=False):
    """The members of a webhook body that name people; all others are skipped."""

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
    """Say whether a webhook body is about the bot contact: as a sender, or as the contact.

    Attributes that users and integrations set do not count, whatever they hold.
    A body that is not JSON is judged by its text: it may be part of one that holds a code.
    """
    # Takes a fraction of a microsecond, and settles nearly all bodies.
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
    """Yield what stands where a body, or the conversation in it, names people."""
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
