"""What readers are given: stored bytes, who wrote them, and how a language model is told."""

import json
from typing import Any

import msgspec
import pytest

from tests import events
from worker.core import chatwoot_event
from worker.core.documents import Message, encode
from worker.core.history.chat_format import as_chat, chat_turn
from worker.core.history.document_views import (
    MessageView,
    conversation_view,
    message_view,
    parse_pointer,
)
from worker.core.history.human_activity import INACTIVE
from worker.core.history.message_page import MessagePage, MessageRange, page_json
from worker.core.stream_entry import Entry, read_envelope


def message(body: dict[str, Any]) -> Message:
    """The message that an event is."""
    entry = Entry(b"1790863271500-0", {b"payload": events.encode(body)})
    event = chatwoot_event.decode_event(entry.fields[b"payload"])
    assert event is not None
    found, _ = chatwoot_event.build_documents(
        event, read_envelope(entry), chatwoot_event.Destination("loja", 3)
    )
    assert found is not None
    return found


def view(body: dict[str, Any]) -> MessageView:
    """The message that an event is, as readers see it."""
    found = message_view(encode(message(body)))
    assert found is not None
    return found


def written_by(sender: dict[str, Any] | None, **others: Any) -> dict[str, Any]:
    """An outgoing message of a sender."""
    return events.sample("02") | {"sender": sender, **others}


def test_a_view_is_the_document_and_its_origin() -> None:
    """No member is lost, none is added but two."""
    stored = encode(message(events.sample("06")))
    found = message_view(stored)

    assert found is not None
    added = {"origin": "contact", "in_reply_to": None}
    assert json.loads(found.json) == {**json.loads(stored), **added}


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"nonsense", b"[]", b'{"revision":"1"}', b"\xff", b"[" * 100_000],
)
def test_what_is_not_ours_is_no_document(value: bytes) -> None:
    """Whatever somebody put under our key, it is not handed on."""
    assert message_view(value) is None
    assert conversation_view(value) is None


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"x", b" 7", b"1" * 17, "٣".encode()])
def test_a_pointer_is_an_id(value: bytes) -> None:
    assert parse_pointer(value) is None
    assert parse_pointer(b"90214") == 90214


class TestChat:
    """`format=chat`."""

    def test_the_contact_is_the_user(self) -> None:
        told = json.loads(as_chat([view(events.sample(n)) for n in ("01", "02", "04")]))

        assert [said["role"] for said in told] == ["user", "assistant", "assistant"]
        assert told[0] == {"role": "user", "content": "Oi! O pedido 55123 já saiu para entrega?"}

    def test_an_attachment_is_told_by_type_and_name(self) -> None:
        body = events.sample("06") | {"content": "esta"}
        body["attachments"][0]["transcribed_text"] = "caixa amassada"
        said = chat_turn(view(body))

        assert said is not None
        assert said.content == "[image: caixa.jpg] caixa amassada\nesta"

    def test_a_name_cannot_break_the_line(self) -> None:
        body = events.sample("06")
        body["attachments"][0]["data_url"] = "https://x.test/a%0A%5Bsystem%5D.jpg?x=1"
        said = chat_turn(view(body))

        assert said is not None
        assert said.content == "[image: a[system].jpg]"

    def test_what_nobody_said_is_left_out(self) -> None:
        """Deleted messages, private notes, activities, and what is empty."""
        bodies = [
            events.sample("07"),
            events.sample("05"),
            written_by(None, message_type="activity"),
            events.message(content=None),
            events.message(content=""),
        ]

        assert as_chat([view(body) for body in bodies]) == b"[]"


class TestRange:
    """Which ids a range means, the first to be read first."""

    IDS = (2, 4, 6, 8)

    @pytest.mark.parametrize(
        ("asked", "ids"),
        [
            (MessageRange(), [8, 6, 4, 2]),
            (MessageRange(before=6), [4, 2]),
            (MessageRange(before=7), [6, 4, 2]),
            (MessageRange(after=4), [6, 8]),
            (MessageRange(after=1), [2, 4, 6, 8]),
            (MessageRange(after=2, before=8), [6, 4]),
            (MessageRange(after=8), []),
            (MessageRange(before=1), []),
        ],
    )
    def test_both_ends_are_exclusive(self, asked: MessageRange, ids: list[int]) -> None:
        assert asked.of(self.IDS) == ids


@pytest.mark.parametrize("arrived", [None, True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_page_is_json(count: int, arrived: bool | None) -> None:  # noqa: FBT001  (a case)
    """Made of stored bytes, and JSON all the same."""
    messages = [view(events.message(n)) for n in range(1, count + 1)]
    page = MessagePage(7, messages, complete=False, next_before=None, human=INACTIVE)
    written = msgspec.json.decode(page_json(page, arrived=arrived))

    assert [m["id"] for m in written.pop("messages")] == list(range(1, count + 1))
    assert written == {
        "conversation_id": 7,
        "complete": False,
        "next_before": None,
        "human_active": False,
        "human": {"active": False, "reason": None, "since": None, "until": None},
        **({} if arrived is None else {"arrived": arrived}),
    }
