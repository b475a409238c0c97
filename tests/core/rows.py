"""Chatwoot's rows as webhook bodies, in the entries they come in, and as documents.

A `Reading` is one webhook: what the body says, and the entry that brought it.
It states its own witness time, so that tests need not ask the code under test.
"""

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st
from msgspec.structs import replace

from worker.core import chatwoot_event, stream_entry as entries
from worker.core.chatwoot_event import Destination
from worker.core.documents import Conversation, Message
from worker.core.merge import STAMP_DIGITS
from worker.core.stream_entry import Entry, Envelope

LOJA: Final = Destination("loja", 3)
PLACEHOLDER: Final = "This message was deleted"
MESSAGE_ID: Final = 90214
CONVERSATION_ID: Final = 1584
NOON_S: Final = 1_790_863_200
"""The time around which everything happens: 2026-10-01T14:00:00Z."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clock:
    """A time as Chatwoot wrote it, and what it means in microseconds; 0 where it means nothing."""

    written: int | float | str | None
    us: int


NEVER: Final = Clock(None, 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One webhook about one message."""

    order: tuple[int, int]
    message_id: int = MESSAGE_ID
    is_update: bool = False
    deleted: bool = False
    source_id: str | None = None
    status: str | None = None
    status_at: Clock = NEVER
    latest_is_other: bool = False
    created_at: Clock = NEVER
    touched: dict[str, Clock] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the message says; no two readings say the same, so mixing them shows."""
        return PLACEHOLDER if self.deleted else f"text {self.order}"

    @property
    def witness_us(self) -> int:
        """When Chatwoot read the row at the earliest, by the rules of the contract."""
        activity = self.touched["last_activity_at"].us or self.touched["timestamp"].us
        latest = self.touched["updated_at"].us
        known = max(activity, latest, self.status_at.us, self.created_at.us)
        return min(known, self.order[0] * 1000 + 600_000_000)

    @property
    def status_is_known(self) -> bool:
        return self.status is not None and not self.latest_is_other

    def body(self) -> Json:
        """Return the webhook body."""
        latest = {
            "id": self.message_id + self.latest_is_other,
            "status": self.status,
            "updated_at": self.status_at.written,
            "content": "another text",
        }
        written = {name: clock.written for name, clock in self.touched.items()}
        return {
            "event": "message_updated" if self.is_update else "message_created",
            "id": self.message_id,
            "account": {"id": 3, "name": "Agência Aurora"},
            "inbox": {"id": 12, "name": "loja"},
            "message_type": "outgoing",
            "content": self.text,
            "content_attributes": {"deleted": True}
            if self.deleted
            else {"from": self.text, "odd": _ODD},
            "attachments": [{"id": 1, "data_url": f"https://chat.exemplo.test/{self.order}"}],
            "private": False,
            "source_id": self.source_id,
            "created_at": self.created_at.written,
            "conversation": {
                "id": CONVERSATION_ID,
                "channel": "Channel::Api",
                "additional_attributes": {"from": self.order},
                "messages": [latest],
                **written,
            },
        }

    def statement(self, *, replayed: bool = False) -> Envelope:
        """Return its entry, read; a replayed one has a new id and states its first."""
        entry_id = f"{self.order[0]}-{self.order[1]}".encode()
        fields = {b"payload": json.dumps(self.body()).encode()}
        if replayed:
            return entries.read_envelope(Entry(b"9999999999999-7", {**fields, b"_id": entry_id}))
        return entries.read_envelope(Entry(entry_id, fields))

    def documents(self, *, replayed: bool = False) -> tuple[Message, Conversation]:
        """Return its documents, as the worker makes them from the entry's bytes."""
        said = self.statement(replayed=replayed)
        event = chatwoot_event.decode_event(said.payload)
        assert event is not None
        message, conversation = chatwoot_event.build_documents(event, said, LOJA)
        assert message is not None
        return message, conversation


def _written(seconds: int, micros: int, form: str) -> Clock:
    us = seconds * 1_000_000 + micros
    time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    match form:
        case "seconds":
            return Clock(seconds, seconds * 1_000_000)
        case "float":
            return Clock(us / 1_000_000, us)
        case "rails":
            text = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            return Clock(text, us // 1000 * 1000)
        case "offset":
            return Clock(time.isoformat(), us)
        case _:
            return Clock(f"{time:%Y-%m-%d %H:%M:%S} UTC", seconds * 1_000_000)


def _pool() -> list[Clock]:
    offsets = [0, 1, 2, 599, 600, 601, -1, -3600, 3600, 86400, -NOON_S, 4 * 10**9]
    micros = [0, 1000, 498_000, 722_044, 999_999]
    forms = ["seconds", "float", "rails", "offset", "2020"]
    return [_written(NOON_S + o, m, f) for o, m, f in itertools.product(offsets, micros, forms)]


_MEANT: Final = _pool()
_SENSELESS: Final = [
    Clock(time, 0) for time in (0, -5, 10**12, -0.5, 1e300, "", "soon", "2026-13-01T00:00:00Z")
]


def clocks() -> st.SearchStrategy[Clock]:
    """Times in every form, close together so that they often tie, some of a wrong clock or none."""
    return st.sampled_from([*_MEANT, *_SENSELESS * 8, *[NEVER] * 40])


_TRICKS: Final = (
    '","created_at":1,"updated_at":2,"sender":3',
    '","message_type":"incoming","source_id":"WAID:A","message_type":',
    ',"private":true,"deleted":true,"status":"read","created_at":1',
    "%1",
)
"""Texts that a script which cuts documents by their text could trip over."""


_ODD: Final = {
    "z": 0,
    "source_id": "WAID:A",
    "message_type": "outgoing",
    "private": True,
    "deleted": False,
    "status": "read",
    "created_at": 1,
    "updated_at": "2",
    "sender": None,
}
"""Attributes that look like a message's own members."""


def statuses() -> st.SearchStrategy[str | None]:
    """Statuses: none, the four known ones, and others that only their last letter tells apart."""
    long = "waiting for the provider to answer, attempt "
    others = [
        "",
        "queued",
        "queuee",
        "q",
        "accepted",
        "x" * 300,
        long + "1",
        long + "2",
        "é",
        "😀",
        *_TRICKS,
    ]
    return st.none() | st.sampled_from(["failed", "sent", "delivered", "read", *others])


def orders() -> st.SearchStrategy[tuple[int, int]]:
    """Ids of entries, close together; a sequence has up to 20 digits."""
    ms = st.sampled_from([NOON_S * 1000 + more for more in (0, 1, 2000, 3_600_000)])
    return st.tuples(ms, st.sampled_from([0, 1, 2, 9, 10, 11, 2**63, 2**64 - 1]))


def readings(message_ids: tuple[int, ...] = (MESSAGE_ID,)) -> st.SearchStrategy[Reading]:
    """Whatever Chatwoot may say about a message, true or not."""
    return st.builds(
        Reading,
        order=orders(),
        message_id=st.sampled_from(message_ids),
        is_update=st.booleans(),
        deleted=st.sampled_from([False, False, True]),
        source_id=st.sampled_from([None, None, "WAID:A", "WAID:B", "", _TRICKS[1]]),
        status=statuses(),
        status_at=clocks(),
        latest_is_other=st.booleans(),
        created_at=clocks(),
        touched=st.fixed_dictionaries(
            dict.fromkeys(("updated_at", "last_activity_at", "timestamp"), clocks())
        ),
    )


def histories(
    *, min_size: int = 1, max_size: int = 5, message_ids: tuple[int, ...] = (MESSAGE_ID,)
) -> st.SearchStrategy[list[Reading]]:
    """Readings of the same rows, each in an entry of its own."""
    return st.lists(
        readings(message_ids),
        min_size=min_size,
        max_size=max_size,
        unique_by=lambda reading: reading.order,
    )


def plain(**changes: Any) -> Reading:
    """One reading of a text that was sent, with changes."""
    now = Clock(NOON_S, NOON_S * 1_000_000)
    touched = dict.fromkeys(("updated_at", "last_activity_at", "timestamp"), now)
    return Reading(**{"order": (NOON_S * 1000, 0), "touched": touched} | changes)


def as_of_0_1_0(message: Message) -> Message:
    """Return the document that a worker of 0.1.0 makes of the same event."""
    source_at = 2 * STAMP_DIGITS
    flag = min(message.revision[source_at], "1")
    revision = message.revision[:source_at] + flag + message.revision[source_at + 1 :]
    return replace(message, revision=revision)


def message_document() -> Message:
    """Return a message document of instance `loja`."""
    return plain().documents()[0]


def conversation_document() -> Conversation:
    """Return a conversation document of instance `loja`."""
    return plain().documents()[1]
