"""An entry as Redis gave it, and what a producer states in its fields.

| field      | required | meaning                                                            |
|------------|----------|--------------------------------------------------------------------|
| `payload`  | yes      | the webhook body, byte for byte (a JSON object)                    |
| `instance` | no       | Evolution instance, stated by a producer that knows it             |
| `expect`   | no       | instance named in the webhook's URL: checked, never believed       |
| `account`  | no       | account whose secret signed the body: checked, fills a missing one |
| `delivery` | no       | `X-Chatwoot-Delivery`, for the log                                 |
| `_id`      | no       | the first id of an entry that was replayed                         |
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from worker.core.cache_keys import MAX_NAME_BYTES
from worker.errors import UnusableEntry

DeliverySource = Literal["new", "own", "reclaimed"]
"""How an entry reached us: read for the first time, pending under our name, or another's."""

Fields = Mapping[bytes, bytes]

_MAX_ID_DIGITS = 20
_MAX_MS_DIGITS = 13

MAX_ID = 2**53 - 1
"""The greatest id of Chatwoot's: what a Redis score and JavaScript count exactly."""


class Entry(Struct, frozen=True, gc=False):
    """One entry of the stream; `attempts` is how often it was handed out, this time included.

    Without fields it is a pending entry that was trimmed from the stream.
    """

    id: bytes
    fields: Fields
    attempts: int = 1


class PendingEntry(Struct, frozen=True, gc=False):
    """An entry that was handed out `attempts` times and never acknowledged."""

    id: bytes
    attempts: int


class DeadEntry(Struct, frozen=True, gc=False):
    """An entry that cannot be used, and why."""

    entry: Entry
    error: UnusableEntry


class BuryResult(Struct, frozen=True, gc=False):
    """What burying did: entries acknowledged, and old letters dropped for room."""

    acked: int
    dropped: int


class SpoolPosition(Struct, frozen=True, gc=False):
    """The last row of a spool that was added to the stream; empty before the first."""

    spool: str
    row: bytes = b""


class Envelope(Struct, frozen=True, gc=False):
    """What an entry says around its payload.

    `order` is the entry's id in 33 digits, `ms` its time in Unix milliseconds;
    a replayed entry has those of its first id.
    """

    payload: bytes
    order: str
    ms: int
    instance: str | None = None
    expect: str | None = None
    account_id: int | None = None


def read_envelope(entry: Entry) -> Envelope:
    """Read an entry's fields; raises `UnusableEntry("bad_entry")` when they break the contract."""
    fields = entry.fields
    payload = fields.get(b"payload")
    if payload is None:
        raise UnusableEntry("bad_entry", "the entry has no field `payload`")

    if len(fields) == 1:
        ms, order = _parse_id(entry.id)
        return Envelope(payload, order, ms)
    ms, order = _parse_id(fields.get(b"_id", entry.id))
    instance, expect = _name(fields, b"instance"), _name(fields, b"expect")
    return Envelope(payload, order, ms, instance, expect, _account(fields))


def entry_time_s(entry_id: bytes) -> float:
    """Return the Unix time of an id that the server gave, in seconds."""
    return int(entry_id.partition(b"-")[0]) / 1000


def _parse_id(entry_id: bytes) -> tuple[int, str]:
    """Return an id's time in milliseconds, and the id in 33 digits."""
    ms, _, sequence = entry_id.partition(b"-")
    if not (_is_number(ms) and _is_number(sequence)):
        raise UnusableEntry(
            "bad_entry", "the entry's `_id` is not of the form milliseconds-sequence"
        )

    time_ms = int(ms)
    if time_ms >= 10**_MAX_MS_DIGITS:
        raise UnusableEntry("bad_entry", "the entry's id has more than 13 digits of milliseconds")
    order = ms.zfill(_MAX_MS_DIGITS)[-_MAX_MS_DIGITS:] + sequence.zfill(_MAX_ID_DIGITS)
    return time_ms, order.decode()


def _is_number(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= _MAX_ID_DIGITS


def _name(fields: Fields, field: bytes) -> str | None:
    value = fields.get(field)
    if value is None:
        return None
    if not 1 <= len(value) <= MAX_NAME_BYTES:
        raise UnusableEntry("bad_entry", f"field `{field.decode()}` is not 1 to 255 bytes long")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnusableEntry("bad_entry", f"field `{field.decode()}` is not UTF-8") from None


def _account(fields: Fields) -> int | None:
    value = fields.get(b"account")
    if value is None:
        return None
    account_id = int(value) if value.isdigit() and len(value) <= len(str(MAX_ID)) else 0
    if not 1 <= account_id <= MAX_ID:
        raise UnusableEntry("bad_entry", "field `account` is not an account id")
    return account_id
