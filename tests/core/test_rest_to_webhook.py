"""Backfill and webhooks merged: the newest state of both is kept, in any order."""

import json
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import msgspec
from hypothesis import example, given, settings, strategies as st

from tests.fakes.rows import ConversationRow, MessageRow, delete
from worker.core import chatwoot_event, rest_to_webhook, stream_entry as entries
from worker.core.chatwoot_event import Destination
from worker.core.documents import Conversation, Message
from worker.core.inbox_matching import Inbox
from worker.core.merge import merge
from worker.core.rest_to_webhook import RestConversation, RestMessage
from worker.core.stream_entry import Entry

START_US = 1_790_863_200_000_000
INBOX = Inbox(12, 3, "loja", "Channel::Api")
LOJA = Destination("loja", 3)


def documents(payload: bytes, *, at_us: int, first: str | None = None) -> tuple[Any, Any]:
    """The documents of an entry that the stream took at a time; `first` is its `_id`."""
    fields = {b"payload": payload} | ({b"_id": first.encode()} if first else {})
    envelope = entries.read_envelope(Entry(f"{at_us // 1000}-{at_us % 1000}".encode(), fields))
    event = chatwoot_event.decode_event(envelope.payload)
    assert event is not None
    return chatwoot_event.build_documents(event, envelope, LOJA)


def fresh() -> ConversationRow:
    row = ConversationRow(1584, 3, 12, "loja", START_US, START_US, START_US)
    for number in (1, 2, 3):
        row.add(number, START_US, "text 0")
    return row


def rest_conversation(row: ConversationRow) -> RestConversation:
    return msgspec.json.decode(json.dumps(row.rest()), type=RestConversation)


def rest_messages(row: ConversationRow) -> list[RestMessage]:
    listed = [message.rest(row) for message in row.messages]
    return msgspec.json.decode(json.dumps(listed), type=list[RestMessage])


@dataclass
class World:
    """Chatwoot over time, everything that was read from it, and the documents it results in.

    A webhook is read some while after its change, and arrives some while after that.
    """

    tick_us: int = 1500
    row: ConversationRow = field(default_factory=fresh)
    now_us: int = START_US
    messages: list[Message] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    known: dict[int, MessageRow] = field(default_factory=dict)
    known_status: dict[int, str] = field(default_factory=dict)
    known_conversation: str | None = None

    def pass_time(self, us: int) -> None:
        self.now_us += us

    def change(self, what: str, number: int) -> MessageRow | None:
        """Change a row; returns the message of its event, None for no message."""
        self.pass_time(self.tick_us)
        message = self.row.messages[number % len(self.row.messages)]
        match what:
            case "edit":
                message.content, message.updated_us = f"text {self.now_us}", self.now_us
            case "status":
                message.status = "delivered" if message.status == "sent" else "read"
                message.updated_us = self.now_us
            case "delete":
                delete(message, self.now_us)
            case "activity":
                self.row.add(len(self.row.messages) + 1, self.now_us, "line", message_type=2)
                return None
            case "note":
                return self.row.add(
                    *(len(self.row.messages) + 1, self.now_us, f"text {self.now_us}"), private=True
                )
            case "touch":
                flipped = "resolved" if self.row.status == "open" else "open"
                self.row.touch(self.now_us, flipped)
                return None
            case _:
                return self.row.add(len(self.row.messages) + 1, self.now_us, f"text {self.now_us}")
        return None if message.message_type == 2 else message

    def receive(self, message: MessageRow | None, *, created: bool, delay_us: int) -> None:
        """Receive a webhook that is built now, and arrives `delay_us` later."""
        arrives_us = self.now_us + delay_us
        if message is None:
            body = self.row.conversation_webhook("conversation_updated")
            self._take(documents(json.dumps(body).encode(), at_us=arrives_us))
        else:
            event = "message_created" if created else "message_updated"
            body = self.row.webhook(message, event)
            self._take(documents(json.dumps(body).encode(), at_us=arrives_us))
            self._note(message)
            if self.row.latest()[:1] == [message]:
                self.known_status[message.id] = message.status
        self.known_conversation = self.row.status

    def backfill(self, between: list[tuple[str, int]], delay_us: int) -> list[MessageRow | None]:
        """Read the conversation, then its messages; returns those that changed in between."""
        first = f"{self.now_us // 1000 - 1}-{self.now_us % 1000}"
        conversation = rest_conversation(self.row)
        self.known_conversation = self.row.status
        changed = [self.change(what, number) for what, number in between]
        messages = rest_messages(self.row)
        arrives_us = self.now_us + delay_us
        for seen in messages:
            if not seen.is_activity:
                payload = rest_to_webhook.message_body(seen, conversation, INBOX)
                self._take(documents(payload, at_us=arrives_us, first=first))
        for message in self.row.messages:
            if message.message_type != 2:
                self._note(message)
                self.known_status[message.id] = message.status
        return changed

    def _take(self, made: tuple[Message | None, Conversation]) -> None:
        message, conversation = made
        self.conversations.append(conversation)
        if message is not None:
            self.messages.append(message)

    def _note(self, message: MessageRow) -> None:
        self.known[message.id] = replace(message)

    def cached(self) -> dict[int, Message]:
        ids = {message.id for message in self.messages}
        return {i: reduce(merge, [m for m in self.messages if m.id == i]) for i in ids}


Step = tuple[str, tuple[str, int], int]

WHAT = ("edit", "edit", "status", "delete", "activity", "touch", "create")


def steps(*what: str, **kinds: list[int]) -> st.SearchStrategy[list[Step]]:
    """Steps of these kinds, each with one of these many microseconds, and what happens to whom."""
    change = st.tuples(st.sampled_from(what), st.integers(0, 3))
    some = [st.tuples(st.just(k), change, st.sampled_from(us)) for k, us in kinds.items()]
    return st.lists(st.one_of(*some), min_size=1, max_size=12)


def replay(history: list[Step]) -> World:
    """Return a world in which these steps happened in order."""
    world = World(tick_us=1_000_000)
    for kind, (what, number), us in history:
        match kind:
            case "live":
                message = world.change(what, number)
                world.receive(message, created=what in ("create", "note"), delay_us=us)
            case "lost":
                world.change(what, number)
            case "backfill":
                world.backfill([], us)
            case _:
                world.pass_time(us)
        world.pass_time(1_000_000)
    return world


EDIT = ("edit", 0)
MISSED_EDIT: list[Step] = [("live", EDIT, 0), ("lost", EDIT, 0), ("backfill", EDIT, 0)]
EDIT_AFTER_A_LINE: list[Step] = [
    ("live", ("activity", 0), 0),
    ("straddled", EDIT, 0),
    ("live", EDIT, 0),
]
MISSED_EDIT_AFTER_A_STATUS: list[Step] = [("live", ("status", 2), 0), *MISSED_EDIT]


@example(MISSED_EDIT)
@example(MISSED_EDIT_AFTER_A_STATUS)
@settings(max_examples=400)
@given(steps(*WHAT, live=[0], lost=[0], backfill=[0], pause=[5_000_000]))
def test_the_last_state_read_is_kept_where_no_event_is_in_flight(history: list[Step]) -> None:
    """Events may be lost, and each reading is on the stream before the next is made.

    In whole seconds, which is all that the REST API tells of most times, and without private
    notes, which hide when the latest public message changed: there, the state of a webhook is kept.
    """
    world = replay(history)

    cached = world.cached()
    assert cached.keys() == world.known.keys()
    for message_id, row in world.known.items():
        assert cached[message_id].deleted == bool(row.content_attributes)
        assert cached[message_id].content == row.content
        assert cached[message_id].status == world.known_status.get(message_id)
    if world.conversations:
        assert reduce(merge, world.conversations).status == world.known_conversation


@example(EDIT_AFTER_A_LINE)
@settings(max_examples=400)
@given(steps(*WHAT, "note", live=[0], straddled=[0, 900, 9_000_000], pause=[700_000, 5_000_000]))
def test_no_webhook_is_undone_by_what_backfill_puts_on_the_stream_after_it(
    history: list[Step],
) -> None:
    """A webhook for a change between the two requests of backfill is read after them."""
    world = World()
    for step in history:
        for message, created in replay_step(world, step):
            world.receive(message, created=created, delay_us=0)

    cached = world.cached()
    for row in world.row.messages:
        if row.id in world.known:
            assert cached[row.id].deleted == bool(row.content_attributes)
            assert cached[row.id].content == row.content
    if world.conversations:
        assert reduce(merge, world.conversations).status == world.row.status


def replay_step(world: World, step: Step) -> list[tuple[MessageRow | None, bool]]:
    """Take a step, and return the messages that webhooks are due for."""
    kind, (what, number), us = step
    world.pass_time(2000)
    if kind == "pause":
        world.pass_time(us)
        return []
    if kind == "straddled":
        changed = world.backfill([(what, number)], us)
    else:
        changed = [world.change(what, number)]
    return [(message, what in ("create", "note")) for message in changed]
