"""Merges two states of a document, register by register.

A webhook's body is the row as it was when Chatwoot's job ran, and jobs do not arrive in that order.
So each register of a document has a *stamp*, and the value with the greater stamp wins.
The concatenated stamps of a document are its *revision*.

Merge is a join: commutative, associative and idempotent. The end state is the same for any order,
grouping and repetition of events.
"""

from hashlib import blake2b
from typing import TypeVar

from msgspec.structs import replace

from worker.core.documents import Conversation, Message

STAMP_DIGITS = 52
"""Width of every stamp, so that a script can split a revision."""

UNKNOWN = "0" * STAMP_DIGITS
"""The stamp of a register that an event does not state."""

MAX_TIME_US = 10**16

_TIME_DIGITS = 17
_KIND = 1 + _TIME_DIGITS
_NO_TEXT = "0" * 33
_RANKS = {"failed": 1, "sent": 2, "delivered": 3, "read": 4}

_BODY = slice(0, STAMP_DIGITS)
_STATUS = slice(STAMP_DIGITS, 2 * STAMP_DIGITS)
_SOURCE = slice(2 * STAMP_DIGITS, 3 * STAMP_DIGITS)

_D = TypeVar("_D", Message, Conversation)


def stamp(*, flag: bool, witness_us: int, kind: int, order: str) -> str:
    """Return the stamp of a register that is ordered by its witness time.

    `flag` comes before time: `deleted` for a body, "is known" for the others. That of a source id
    is 2 where the message was created with it, see `source_stamp`.
    `kind` is 0 for a created and 1 for an updated message.
    `order` is the entry's id as 33 digits; it only breaks ties.
    """
    return f"{'1' if flag else '0'}{stamp_tail(witness_us, kind, order)}"


def stamp_tail(witness_us: int, kind: int, order: str) -> str:
    """Return a stamp without its flag: the same for all registers of one event."""
    return f"{str(witness_us).zfill(_TIME_DIGITS)}{kind}{order}"


def source_stamp(tail: str, *, is_update: bool) -> str:
    """Return the stamp of a known source id: one known at creation ranks above any later one."""
    return f"{'1' if is_update else '2'}{tail}"


def is_created_with_source(revision: str) -> bool:
    """Say whether a message's source id is known from its creation, and not from a later state.

    Workers of 0.1.0 wrote the flag 1 in both cases, and the kind tells.
    """
    source = revision[_SOURCE]
    return source[0] == "2" or (source[0] == "1" and source[_KIND] == "0")


def status_stamp(status: str, updated_us: int) -> str:
    """Return the stamp of a known status, ordered by time, then failed < sent < delivered < read.

    Other statuses rank below these, by text; a digest after the first five bytes distinguishes
    long texts.
    """
    rank = _RANKS.get(status)
    if rank:
        return f"1{str(updated_us).zfill(_TIME_DIGITS)}{rank}{_NO_TEXT}"
    encoded = status.encode()
    text = int.from_bytes(encoded[:5].ljust(5, b"\0") + blake2b(encoded, digest_size=8).digest())
    return f"1{str(updated_us).zfill(_TIME_DIGITS)}0{text:033d}"


def merge(a: _D, b: _D) -> _D:
    """Return the document that has, of each register, the value with the greater stamp."""
    if isinstance(a, Message):
        return _merge_messages(a, b)
    return a if a.revision >= b.revision else b


def _merge_messages(a: Message, b: Message) -> Message:
    body = a if a.revision[_BODY] >= b.revision[_BODY] else b
    status = a if a.revision[_STATUS] >= b.revision[_STATUS] else b
    source = a if a.revision[_SOURCE] >= b.revision[_SOURCE] else b
    if body is status is source:
        return body

    return replace(
        body,
        revision=body.revision[_BODY] + status.revision[_STATUS] + source.revision[_SOURCE],
        status=status.status,
        updated_at=status.updated_at,
        source_id=source.source_id,
    )
