"""The names by which contacts are indexed and looked up: phone numbers, JIDs, other identifiers.

One number is written in several formats: with `+` and spaces, as a JID, as the JID of one of its
devices, and in Brazil with or without the ninth digit of a mobile number.
"""

import re
from typing import Final, NamedTuple

from worker.core.documents import Contact

PHONE_SERVER: Final = "s.whatsapp.net"

_PHONE_SERVERS: Final = frozenset({PHONE_SERVER, "c.us"})
"""Servers whose JIDs are phone numbers; WhatsApp Web uses the second for the first."""

_DIGIT: Final = re.compile(r"[0-9]")
_PHONE: Final = re.compile(r"[+]?[0-9][0-9 ().-]*")
_DEVICE: Final = re.compile(r":[0-9]+$")
_BRAZIL: Final = re.compile(r"(55[1-9][1-9])(9?)([0-9]{8})")


def phone_digits(phone_number: str) -> str:
    """Return the ASCII digits of a phone number."""
    digits = phone_number.removeprefix("+")
    return digits if digits.isascii() and digits.isdigit() else "".join(_DIGIT.findall(digits))


def index_identifiers(contact: Contact | None) -> list[str]:
    """Return the names a contact is indexed by: the phone number's digits, and the identifier.

    An identifier that is the JID of the digits is left out.
    """
    if contact is None:
        return []

    digits = phone_digits(contact.phone_number or "")
    names = [digits] if digits else []
    if contact.identifier and contact.identifier != f"{digits}@{PHONE_SERVER}":
        names.append(contact.identifier)
    return names


def all_identifiers(contact: Contact | None) -> set[str]:
    """Return all names of a contact, those of its identifier included."""
    if contact is None:
        return set()
    names = {*index_identifiers(contact), contact.identifier or ""}
    phone, at, server = (contact.identifier or "").partition("@")
    if at and server == PHONE_SERVER:
        names.add(phone_digits(phone))
    return names - {""}


class ContactIdentifiers(NamedTuple):
    """Names of the contact itself, and those of the number's other form in Brazil.

    The other form may be another person's: it is used only if no own name is indexed.
    """

    own: list[str]
    other_form: list[str]


def lookup_identifiers(contact: str) -> ContactIdentifiers:
    """Return the names to look a contact up by: a JID, a phone number, or any other identifier."""
    user, at, server = contact.rpartition("@")
    if not at:
        is_phone = _PHONE.fullmatch(contact)
        return _of_phone(phone_digits(contact)) if is_phone else ContactIdentifiers([contact], [])

    user = _DEVICE.sub("", user)
    jid = f"{user}@{server}"
    if server not in _PHONE_SERVERS:
        return ContactIdentifiers([jid], [])
    own, other_form = _of_phone(phone_digits(user))
    return ContactIdentifiers(list(dict.fromkeys([jid, *own])), other_form)


def _of_phone(digits: str) -> ContactIdentifiers:
    matched = _BRAZIL.fullmatch(digits)
    if not matched:
        return ContactIdentifiers(_names(digits), [])
    area, ninth, number = matched.groups()
    return ContactIdentifiers(_names(digits), _names(f"{area}{'' if ninth else '9'}{number}"))


def _names(digits: str) -> list[str]:
    """Return both index names of a number: as phone number, and as identifier."""
    return [digits, f"{digits}@{PHONE_SERVER}"] if digits else []
