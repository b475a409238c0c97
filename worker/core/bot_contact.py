"""Evolution's bot contact, whose conversation holds QR images and pairing codes.

Evolution creates one such contact for each instance: name `EvolutionAPI`, phone number `+123456`
and, in 2.3.7, no identifier; other releases and installations have the identifier `123456`.
Its conversation is never stored, so either one identifies it.
"""

import re
from typing import Final

import msgspec

from worker.core.webhook_members import people

NUMBER: Final = "123456"

_PHONE_NUMBERS: Final = (NUMBER, f"+{NUMBER}")

_END: Final = b'123456"'
"""How the number ends in JSON, as a value of its own."""

_STATED: Final = re.compile(rb'"(?:identifier|phone_number)"\s*:\s*"\+?123456"')


def is_bot(identifier: object, phone_number: object) -> bool:
    """Say whether a contact with this identifier and phone number is the bot contact."""
    return identifier == NUMBER or phone_number in _PHONE_NUMBERS


def is_about_bot(payload: bytes) -> bool:
    """Say whether the contact or a sender of a webhook body is the bot contact.

    Attributes that users and integrations set are ignored. A body that is not JSON is searched as
    text: it may be part of one that holds a code.
    """
    # Decides nearly all bodies without decoding them. JSON may escape digits; Chatwoot does not.
    if _END not in payload:
        return False
    try:
        found = people(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _STATED.search(payload) is not None
    return any(is_bot(person.get("identifier"), person.get("phone_number")) for person in found)
