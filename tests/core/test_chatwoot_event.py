"""Webhook bodies: every shape Chatwoot ever sent is understood, and no other does harm."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from tests.core.broken import EVENT_NAMES, NUMBER, SECRET, broken_once, payloads
from worker.core import chatwoot_event
from worker.core.bot_contact import is_about_bot
from worker.core.chatwoot_event import MAX_NESTING, ChatwootEvent, Destination, decode_event
from worker.core.documents import (
    Assignee,
    Attachment,
    Contact,
    Conversation,
    Message,
    Ref,
    Sender,
    encode,
)
from worker.core.merge import UNKNOWN
from worker.core.stream_entry import Envelope
from worker.errors import UnusableEntry

PAYLOADS = Path(__file__).parent.parent / "payloads"
LOJA = Destination("loja", 3)
SAID = Envelope(
    payload=b"",
    order=f"{1_790_863_999_000:013d}{0:020d}",
    ms=1_790_863_999_000,
    instance=None,
    expect=None,
    account_id=None,
)

MESSAGE_MEMBERS = [
    "revision",
    "instance",
    "account_id",
    "inbox_id",
    "conversation_id",
    "id",
    "source_id",
    "message_type",
    "content_type",
    "content",
    "content_attributes",
    "private",
    "deleted",
    "status",
    "created_at",
    "updated_at",
    "sender",
    "attachments",
]
CONVERSATION_MEMBERS = [
    "revision",
    "instance",
    "account_id",
    "inbox_id",
    "id",
    "status",
    "channel",
    "labels",
    "priority",
    "unread_count",
    "assignee",
    "team",
    "contact",
    "custom_attributes",
    "additional_attributes",
    "can_reply",
    "created_at",
    "updated_at",
    "last_activity_at",
    "waiting_since",
    "snoozed_until",
]
PERSON_MEMBERS = ["id", "name", "identifier", "phone_number", "email"]

Json = dict[str, Any]


class Seen(NamedTuple):
    """What the worker must see in an example payload."""

    id: int
    conversation_id: int = 1584
    inbox_id: int = 12
    bot: bool = False
    deleted: bool = False
    status: str | None = None


IGNORED = [
    "whatsapp-cloud/contact_updated_last_activity",
    "whatsapp-cloud/conversation_typing_on",
]
MESSAGES = {
    "evolution/01_message_created_incoming_text": Seen(90214, status="sent"),
    "evolution/02_message_created_outgoing_agent": Seen(90215, status="sent"),
    "evolution/03_message_updated_source_id": Seen(90215, status="delivered"),
    "evolution/04_message_created_from_phone": Seen(90216, status="sent"),
    "evolution/05_message_created_private_note": Seen(90217),
    "evolution/06_message_created_image_reply": Seen(90218, status="sent"),
    "evolution/07_message_updated_deleted": Seen(90215, deleted=True),
    "evolution/08_message_created_group": Seen(90219, 1585, status="sent"),
    "evolution/09_message_created_lid": Seen(90220, 1586, status="sent"),
    "evolution/10_message_created_bot_contact_qrcode": Seen(90006, 1501, bot=True, status="sent"),
    "evolution/13_message_created_website_inbox": Seen(90230, inbox_id=15),
    "whatsapp-cloud/message_created_incoming_image_attachment": Seen(90219, status="sent"),
    "whatsapp-cloud/message_created_incoming_whatsapp_text": Seen(90210, status="sent"),
    "whatsapp-cloud/message_created_outgoing_agent": Seen(90214, status="sent"),
    "whatsapp-cloud/message_updated_deleted": Seen(90214, deleted=True),
    "whatsapp-cloud/message_updated_status_delivered": Seen(90214, status="delivered"),
    "whatsapp-cloud/message_updated_status_failed": Seen(90260, status="failed"),
}
CONVERSATIONS = [
    "evolution/11_conversation_status_changed_resolved",
    "evolution/12_conversation_status_changed_2023_shape",
    "whatsapp-cloud/conversation_status_changed_resolved",
    "whatsapp-cloud/conversation_updated_labels",
]


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def event_of(body: Json | bytes) -> ChatwootEvent:
    event = decode_event(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert event is not None
    return event


def message_of(body: Json | bytes) -> Message:
    message, _ = chatwoot_event.build_documents(event_of(body), SAID, LOJA)
    assert message is not None
    return message


def conversation_of(body: Json | bytes) -> Conversation:
    return chatwoot_event.build_documents(event_of(body), SAID, LOJA)[1]


def refused(body: Json | bytes) -> UnusableEntry:
    with pytest.raises(UnusableEntry) as caught:
        decode_event(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def incoming(**changes: Any) -> Json:
    """Return an incoming message of Evolution's, with members changed."""
    body: Json = json.loads(payload("evolution/01_message_created_incoming_text"))
    return {**body, **changes}


def inside(**changes: Any) -> Json:
    """Return an incoming message with members of its conversation changed."""
    body = incoming()
    return {**body, "conversation": {**body["conversation"], **changes}}


def resolved(**changes: Any) -> Json:
    """Return a conversation event, with members changed."""
    body: Json = json.loads(payload("evolution/11_conversation_status_changed_resolved"))
    return {**body, **changes}


def without(body: Json, *names: str) -> Json:
    return {name: value for name, value in body.items() if name not in names}


def members(value: Any) -> Iterator[str]:
    """Yield the name of every member, at any depth."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner)


class TestExamples:
    def test_every_one_is_known_here(self) -> None:
        found = {f"{path.parent.name}/{path.stem}" for path in PAYLOADS.rglob("*.json")}

        assert found == {*IGNORED, *MESSAGES, *CONVERSATIONS}

    @pytest.mark.parametrize("name", IGNORED)
    def test_events_that_are_not_cached_are_ignored(self, name: str) -> None:
        assert decode_event(payload(name)) is None

    @pytest.mark.parametrize("name", MESSAGES)
    def test_a_message_is_seen_as_it_is(self, name: str) -> None:
        seen, body = MESSAGES[name], json.loads(payload(name))
        event = event_of(payload(name))

        assert (event.name, event.account_id, event.inbox_id) == (body["event"], 3, seen.inbox_id)
        assert (event.inbox_name, event.channel) == (
            body["inbox"]["name"],
            body["conversation"]["channel"],
        )
        assert is_about_bot(payload(name)) is seen.bot
        message = message_of(payload(name))
        assert (message.id, message.conversation_id) == (seen.id, seen.conversation_id)
        assert (message.deleted, message.status) == (seen.deleted, seen.status)
        for same in ("source_id", "message_type", "content_type", "content", "private"):
            assert getattr(message, same) == body[same]
        assert message.created_at == body["created_at"]
        assert (message.updated_at is None) is (seen.status is None)

    @pytest.mark.parametrize("name", [*MESSAGES, *CONVERSATIONS])
    def test_a_conversation_is_seen_as_it_is(self, name: str) -> None:
        body = json.loads(payload(name))
        body = body.get("conversation", body)
        conversation = conversation_of(payload(name))

        for same in CONVERSATION_MEMBERS[4:]:
            if same not in ("assignee", "team", "contact"):
                assert getattr(conversation, same) == body.get(same)
        contact = body["meta"]["sender"]
        expected = Contact(*[contact[member] for member in PERSON_MEMBERS])
        assert conversation.contact == expected

    @pytest.mark.parametrize("name", CONVERSATIONS)
    def test_a_conversation_event_has_no_message(self, name: str) -> None:
        event = event_of(payload(name))

        assert chatwoot_event.build_documents(event, SAID, LOJA)[0] is None
        assert (event.account_id, event.inbox_id, event.inbox_name) == (3, 12, None)
        assert not is_about_bot(payload(name))

    @pytest.mark.parametrize("name", [*MESSAGES, *CONVERSATIONS])
    def test_documents_have_the_contracts_members_and_no_others(self, name: str) -> None:
        for document in chatwoot_event.build_documents(event_of(payload(name)), SAID, LOJA):
            if document is None:
                continue
            encoded = json.loads(encode(document))
            of_message = isinstance(document, Message)
            assert list(encoded) == (MESSAGE_MEMBERS if of_message else CONVERSATION_MEMBERS)
            if of_message and encoded["sender"]:
                assert list(encoded["sender"]) == ["type", *PERSON_MEMBERS]
            if not of_message:
                assert list(encoded["contact"]) == PERSON_MEMBERS
                for who, its in (("assignee", ["id", "name", "type"]), ("team", ["id", "name"])):
                    assert encoded[who] is None or list(encoded[who]) == its

    @pytest.mark.parametrize("name", [*MESSAGES, *CONVERSATIONS])
    def test_nothing_secret_and_no_second_text_is_kept(self, name: str) -> None:
        assert b"pubsub_token" in payload(name)

        for document in chatwoot_event.build_documents(event_of(payload(name)), SAID, LOJA):
            encoded = json.loads(encode(document)) if document else {}
            assert not set(members(encoded)) & {
                "pubsub_token",
                "avatar",
                "avatar_url",
                "thumbnail",
                "contact_inbox",
                "messages",
                "processed_message_content",
            }
            assert "FictionalPubsub" not in json.dumps(encoded)

    def test_a_deleted_message_keeps_only_its_placeholder(self) -> None:
        message = message_of(payload("evolution/07_message_updated_deleted"))

        assert message.content == "This message was deleted"
        assert message.content_attributes == {"deleted": True}
        assert message.attachments == []

    def test_an_image_keeps_what_a_reader_needs(self) -> None:
        (image,) = message_of(payload("evolution/06_message_created_image_reply")).attachments

        assert list(json.loads(msgspec.json.encode(image))) == [
            "id",
            "file_type",
            "data_url",
            "thumb_url",
            "extension",
            "file_size",
            "width",
            "height",
        ]


class TestShapes:
    """Chatwoot from 2021 to 2026, and its forks."""

    def test_no_account_in_conversation_events_before_2026(self) -> None:
        body = without(resolved(), "account", "messages")

        assert event_of(body).account_id is None
        assert event_of({**body, "messages": []}).account_id is None
        assert event_of({**body, "messages": [{"account_id": 3}]}).account_id == 3
        assert event_of({**body, "account": {}, "messages": None}).account_id is None

    def test_no_account_in_a_messages_conversation_either(self) -> None:
        body = inside(account=None)

        assert event_of(body).account_id == 3
        assert event_of(without(body, "account")).account_id == 3
        assert event_of(without(inside(account={"id": 4}), "account")).account_id == 4

    @pytest.mark.parametrize(
        ("body", "inbox_id"),
        [
            (incoming(inbox={"id": 7, "name": "x"}), 7),
            (incoming(inbox=None), 12),
            (incoming(inbox={"name": "x"}), 12),
            (without(incoming(), "inbox"), 12),
            ({**inside(inbox_id=None, messages=[{"inbox_id": 8}]), "inbox": None}, 8),
            (resolved(inbox_id=9), 9),
            (resolved(inbox_id=None), 12),
        ],
    )
    def test_the_inbox_is_found_wherever_it_stands(self, body: Json, inbox_id: int) -> None:
        assert event_of(body).inbox_id == inbox_id

    @pytest.mark.parametrize(
        ("times", "witness_us"),
        [
            ({"updated_at": 1_790_863_300.25}, 1_790_863_300_250_000),
            ({"last_activity_at": 1_790_863_300}, 1_790_863_300_000_000),
            ({"timestamp": 1_790_863_300}, 1_790_863_300_000_000),
            ({"last_activity_at": 5, "timestamp": 1_790_863_300}, 1_790_863_271_498_000),
            ({"last_activity_at": 0, "timestamp": 1_790_863_300}, 1_790_863_300_000_000),
            ({"messages": [{"id": 1, "updated_at": "2026-10-01T14:02:00.5Z"}]},
             1_790_863_320_500_000),
            ({"messages": None, "updated_at": "2026-10-01T14:02:00Z"}, 1_790_863_320_000_000),
            ({"created_at": 1_790_863_300, "waiting_since": 1_790_863_300}, 1_790_863_271_498_000),
            ({}, 1_790_863_271_498_000),
        ],
    )  # fmt: skip
    def test_the_witness_time_is_the_greatest_that_says_when_the_row_was_read(
        self, times: Json, witness_us: int
    ) -> None:
        names = ("updated_at", "last_activity_at", "timestamp", "messages", "created_at")
        body = incoming()
        conversation = {**without(body["conversation"], *names), **times}

        message = message_of({**body, "conversation": conversation})

        assert int(message.revision[1:18]) == witness_us

    @pytest.mark.parametrize(
        ("created_at", "witness_us"),
        [
            (1_583_240_757, 1_583_240_757_000_000),
            ("2020-03-03 13:05:57 UTC", 1_583_240_757_000_000),
            ("2020-03-03T13:05:57.000Z", 1_583_240_757_000_000),
            (None, 0),
        ],
    )
    def test_a_creation_time_in_any_form(
        self, created_at: float | str | None, witness_us: int
    ) -> None:
        body = incoming(created_at=created_at, conversation={"id": 1, "inbox_id": 12})
        message = message_of(body)

        assert message.created_at == created_at
        assert int(message.revision[1:18]) == witness_us

    @pytest.mark.parametrize("messages", [None, [], [{}], [{"id": 1, "status": "read"}]])
    def test_no_latest_message_or_another_says_nothing_of_the_status(self, messages: Any) -> None:
        message = message_of(inside(messages=messages))

        assert (message.status, message.updated_at) == (None, None)
        assert message.revision[52:104] == UNKNOWN

    def test_only_the_first_of_several_messages_is_the_latest(self) -> None:
        mine = {"id": 90214, "status": "read", "updated_at": "2026-10-01T14:02:00Z"}

        assert message_of(inside(messages=[mine, {"id": 1}])).status == "read"
        assert message_of(inside(messages=[{"id": 1}, mine])).status is None

    def test_a_status_time_has_one_spelling(self) -> None:
        for written in ("2026-10-01T14:02:00Z", "2026-10-01T11:02:00.000-03:00", 1_790_863_320):
            latest = {"id": 90214, "status": "read", "updated_at": written}
            assert message_of(inside(messages=[latest])).updated_at == "2026-10-01T14:02:00.000Z"

    @pytest.mark.parametrize("meta", [None, {}, {"sender": None, "assignee": None, "team": None}])
    def test_nobody_in_meta(self, meta: Any) -> None:
        conversation = conversation_of(inside(meta=meta))

        assert (conversation.contact, conversation.assignee, conversation.team) == (None,) * 3

    def test_an_agent_bot_as_assignee(self) -> None:
        bot = {"id": 5, "name": "Robô", "type": "agent_bot", "description": "x", "outgoing_url": ""}
        team = {"id": 9, "name": "Vendas", "allow_auto_assign": True}
        conversation = conversation_of(resolved(meta={"assignee": bot, "team": team}))

        assert conversation.assignee == Assignee(5, "Robô", "AgentBot")
        assert conversation.team == Ref(9, "Vendas")

    @pytest.mark.parametrize(
        ("stated", "in_assignee", "kind"),
        [
            ("User", "user", "User"),
            ("AgentBot", "agent_bot", "AgentBot"),
            ("AgentBot", None, "AgentBot"),
            ("Captain::Assistant", None, "Captain::Assistant"),
            (None, "user", "User"),
            (None, "agent_bot", "AgentBot"),
            (None, "captain_assistant", "captain_assistant"),
            (None, None, None),
        ],
    )
    def test_the_assignees_type_is_chatwoots(
        self, stated: str | None, in_assignee: str | None, kind: str | None
    ) -> None:
        """As `assignee_type` states it, which older releases do not have, nor REST in the other."""
        assignee = {"id": 5, "name": "R"} | ({"type": in_assignee} if in_assignee else {})
        meta = {"assignee": assignee} | ({"assignee_type": stated} if stated else {})

        assert conversation_of(resolved(meta=meta)).assignee == Assignee(5, "R", kind)

    @pytest.mark.parametrize(
        ("sender", "expected"),
        [
            (None, None),
            ({"id": 1, "name": "Marina"}, Sender("contact", 1, "Marina")),
            ({"id": 2, "type": "user", "email": "r@x.test"}, Sender("user", 2, email="r@x.test")),
            ({"id": 3, "name": "Robô", "type": "agent_bot"}, Sender("agent_bot", 3, "Robô")),
            (
                {"id": 4, "name": "Capitão", "type": "captain_assistant", "config": {"key": "x"}},
                Sender("captain_assistant", 4, "Capitão"),
            ),
            ({"id": "uuid", "type": None}, Sender(None, "uuid")),
            ({}, Sender("contact")),
        ],
    )
    def test_senders_of_every_class(self, sender: Any, expected: Sender | None) -> None:
        assert message_of(incoming(sender=sender)).sender == expected

    @pytest.mark.parametrize(
        ("attachment", "expected"),
        [
            (
                {"id": 1, "message_id": 2, "account_id": 3, "file_type": "location",
                 "coordinates_lat": -23.5, "coordinates_long": -46.6,
                 "fallback_title": "Praça da Sé", "data_url": None},
                Attachment(id=1, file_type="location", coordinates_lat=-23.5,
                           coordinates_long=-46.6, fallback_title="Praça da Sé", data_url=None),
            ),
            (
                {"id": 1, "file_type": "contact", "fallback_title": "+5511900000042",
                 "meta": {"firstName": "Marina"}},
                Attachment(id=1, file_type="contact", fallback_title="+5511900000042"),
            ),
            (
                {"id": 1, "file_type": "fallback", "fallback_title": "post", "data_url": "https://x"},
                Attachment(id=1, file_type="fallback", fallback_title="post", data_url="https://x"),
            ),
            (
                {"id": 1, "file_type": "audio", "transcribed_text": "oi", "extension": "ogg",
                 "file_size": 10, "width": None, "height": None, "thumb_url": ""},
                Attachment(id=1, file_type="audio", transcribed_text="oi", extension="ogg",
                           file_size=10, width=None, height=None, thumb_url=""),
            ),
            (
                {"id": 1, "file_type": "video", "width": 1280.0, "content_type": "video/mp4"},
                Attachment(id=1, file_type="video", width=1280.0),
            ),
            ({"file_type": "embed", "data_url": "x"}, Attachment(file_type="embed", data_url="x")),
            ({}, Attachment()),
        ],
    )  # fmt: skip
    def test_attachments_of_every_kind(self, attachment: Json, expected: Attachment) -> None:
        message = message_of(incoming(attachments=[attachment]))

        assert message.attachments == [expected]
        (encoded,) = json.loads(encode(message))["attachments"]
        assert set(encoded) == set(attachment) & set(Attachment.__struct_fields__)

    @pytest.mark.parametrize("attachments", [None, []])
    def test_no_attachments(self, attachments: Any) -> None:
        assert message_of(incoming(attachments=attachments)).attachments == []

    def test_an_e_mail_keeps_its_headers_and_loses_its_bodies(self) -> None:
        bodies = {"full": SECRET, "reply": SECRET, "quoted": SECRET}
        headers = {
            "bcc": None,
            "cc": ["a@x.test"],
            "content_type": "multipart/alternative",
            "date": "2026-10-01T14:00:00+00:00",
            "from": ["b@x.test"],
            "in_reply_to": None,
            "message_id": "1@x.test",
            "multipart": True,
            "number_of_attachments": 0,
            "subject": "Pedido",
            "to": ["c@x.test"],
            "auto_reply": False,
        }
        email = {**headers, "html_content": bodies, "text_content": bodies}
        attributes = {"email": email, "cc_emails": ["a@x.test"], "in_reply_to": 5}

        message = message_of(incoming(content_attributes=attributes))

        assert message.content_attributes == {**attributes, "email": headers}
        assert SECRET.encode() not in encode(message)

    @pytest.mark.parametrize("email", [None, "x", [], {}])
    def test_an_attribute_called_email_may_be_anything(self, email: Any) -> None:
        attributes = {"email": email}

        assert message_of(incoming(content_attributes=attributes)).content_attributes == attributes

    @pytest.mark.parametrize("attributes", [None, {}, {"deleted": False}, {"deleted": "true"}])
    def test_what_does_not_say_deleted_is_not(self, attributes: Any) -> None:
        message = message_of(incoming(content_attributes=attributes))

        assert not message.deleted
        assert message.content_attributes == attributes

    def test_a_deletion_drops_every_other_attribute_and_attachment(self) -> None:
        """Forks say more about what was deleted, and what was said."""
        attributes = {"deleted": True, "previous_content": SECRET, "email": {"subject": SECRET}}

        message = message_of(
            incoming(
                content="apagada", content_attributes=attributes, attachments=[{"data_url": SECRET}]
            )
        )

        assert message.deleted
        assert SECRET.encode() not in encode(message)

    @pytest.mark.parametrize(
        ("written", "kept"),
        [
            ("incoming", "incoming"),
            ("outgoing", "outgoing"),
            ("template", "template"),
            ("activity", "activity"),
            (0, "incoming"),
            (1, "outgoing"),
            (2, "activity"),
            (3, "template"),
        ],
    )
    def test_message_types_by_name_or_number(self, written: str | int, kept: str) -> None:
        assert message_of(incoming(message_type=written)).message_type == kept

    def test_the_least_that_can_be_cached(self) -> None:
        least = {
            "event": "message_created",
            "id": 1,
            "message_type": 3,
            "inbox": {"id": 2},
            "conversation": {"id": 3},
        }

        message, conversation = message_of(least), conversation_of(least)

        assert (message.id, message.conversation_id, message.inbox_id) == (1, 3, 2)
        assert (message.content, message.sender, message.private) == (None, None, False)
        assert message.revision[104:] == UNKNOWN
        assert (conversation.id, conversation.inbox_id) == (3, 2)
        assert conversation_of({"event": "conversation_created", "id": 3, "inbox_id": 2}).id == 3

    @pytest.mark.parametrize("source_id", ["", "WAID:1"])
    def test_a_source_id_that_is_there_is_known(self, source_id: str) -> None:
        message = message_of(incoming(source_id=source_id))

        assert message.source_id == source_id
        assert message.revision[104:] != UNKNOWN

    @pytest.mark.parametrize("event", ["automation_event.message_created", "macro.executed", ""])
    def test_other_events_are_ignored_whatever_they_hold(self, event: str) -> None:
        assert (
            decode_event(json.dumps({"event": event, "id": "x", "conversation": 5}).encode())
            is None
        )
        assert decode_event(json.dumps(resolved(event=event)).encode()) is None

    def test_the_account_and_instance_are_the_bindings(self) -> None:
        event = event_of(incoming())

        for document in chatwoot_event.build_documents(event, SAID, Destination("São João", 9)):
            assert document is not None
            assert (document.instance, document.account_id) == ("São João", 9)


class TestMalformed:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"null",
            b"true",
            b"[]",
            b"[{}]",
            b'"message_created"',
            b"1",
            b"NaN",
            b"{",
            b"{}}",
            b'{"event": "x"} x',
            b'{"event": NaN}',
            b'{"event": "\\ud800"}',
            b'{"event": "x", "y": "\xff"}',
            b'\xef\xbb\xbf{"event": "x"}',
            '{"event": "x"}'.encode("utf-16"),
            b'{"event": "x", "y": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b"[" * 100_000,
            b"9" * 5000,
        ],
    )
    def test_what_is_no_json_object_is_bad_json(self, body: bytes) -> None:
        assert refused(body).reason == "bad_json"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"event": None},
            {"event": 5},
            {"event": ["message_created"]},
            {"event": "message_created"},
            {"event": "conversation_created"},
            without(incoming(), "id"),
            without(incoming(), "conversation"),
            without(incoming(), "message_type"),
            incoming(conversation=None),
            incoming(conversation=[]),
            incoming(message_type=4),
            incoming(message_type=-1),
            incoming(message_type="Incoming"),
            incoming(message_type=None),
            incoming(id="90214"),
            incoming(id=0),
            incoming(id=-1),
            incoming(id=2**53),
            incoming(id=1.5),
            incoming(id=True),
            incoming(id=10**30),
            inside(id=None),
            inside(id=0),
            inside(id=2**53),
            inside(messages={}),
            inside(messages=[None]),
            inside(labels="vip"),
            inside(labels=[1]),
            inside(custom_attributes=[]),
            inside(created_at={}),
            incoming(account={"id": 0}),
            incoming(account=3),
            incoming(inbox={"id": 2**53}),
            incoming(content=5),
            incoming(content_attributes="{}"),
            incoming(private="false"),
            incoming(sender=[]),
            incoming(sender="x"),
            incoming(attachments={}),
            incoming(attachments=[None]),
            incoming(attachments=[{"file_size": "10"}]),
            resolved(id=None),
            resolved(inbox_id=None, messages=[]),
            resolved(inbox_id="12"),
        ],
    )
    def test_what_is_none_of_chatwoots_shapes_is_a_bad_event(self, body: Json) -> None:
        assert refused(body).reason == "bad_event"

    @pytest.mark.parametrize("id_", [1, 2**53 - 1])
    def test_ids_at_the_bounds_are_taken(self, id_: int) -> None:
        assert message_of({**inside(id=id_), "id": id_}).id == id_

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    @pytest.mark.parametrize(
        ("of", "name"),
        [
            (incoming, "content_attributes"),
            (inside, "custom_attributes"),
            (inside, "additional_attributes"),
            (resolved, "custom_attributes"),
        ],
    )
    def test_attributes_nest_a_hundred_levels_and_no_more(
        self, of: Any, name: str, opening: str
    ) -> None:
        def nested(levels: int) -> bytes:
            inner = opening * (levels - 1) + "1" + {"[": "]"}.get(opening, "}") * (levels - 1)
            marked: str = json.dumps(of(**{name: {"a": "MARK"}}))
            return marked.replace('"MARK"', inner).encode()

        assert conversation_of(nested(MAX_NESTING)).id == 1584
        error = refused(nested(MAX_NESTING + 1))
        assert (error.reason, str(error)) == (
            "bad_event",
            "attributes are nested more than 100 levels deep",
        )

    def test_what_is_not_kept_may_nest_deeper(self) -> None:
        deep = "[" * 300 + "]" * 300
        body = json.dumps(incoming(sentiment="MARK")).replace('"MARK"', deep)

        assert message_of(body.encode()).id == 90214

    def test_of_a_member_that_stands_twice_the_last_counts(self) -> None:
        body = json.dumps(incoming()).encode()

        assert message_of(body[:-1] + b', "id": 7, "content": "x"}').id == 7
        assert decode_event(body[:-1] + b', "event": "contact_updated"}') is None
        assert refused(body[:-1] + b', "event": 7}').reason == "bad_event"

    @settings(max_examples=2 * settings().max_examples)
    @given(payloads())
    @example(b'{"event":"message_created","id":"SEGREDO"}')
    @example(b'{"event":"SEGREDO\xff"}')
    def test_anything_is_ignored_or_cached_or_refused_without_a_word_of_it(
        self, body: bytes
    ) -> None:
        fate(body)

    @pytest.mark.parametrize("name", EVENT_NAMES)
    def test_each_member_may_be_broken_in_each_way(self, name: str) -> None:
        """Thousands of bodies, of which each fate takes its share."""
        fates = Counter(fate(body) for body in broken_once(name))

        assert set(fates) == {"ignored", "cached", "bad_json", "bad_event"}
        assert min(fates["cached"], fates["bad_json"], fates["bad_event"]) > 100

    @given(st.binary(max_size=64) | st.text().map(str.encode))
    def test_noise_is_bad_json_or_a_bad_event(self, body: bytes) -> None:
        assert refused(body).reason in ("bad_json", "bad_event")


def fate(body: bytes) -> str:
    """Return what becomes of a body; fails where that is anything but what the contract allows."""
    event, refusal = None, None
    try:
        event = decode_event(body)
    except UnusableEntry as error:
        refusal = error
    if refusal is not None:
        message = str(refusal)
        assert message.isprintable()
        assert len(message) < 200
        assert not any(said in message for said in (SECRET, str(NUMBER)))
        return refusal.reason
    if event is None:
        return "ignored"

    assert 1 <= event.inbox_id < 2**53
    for document in chatwoot_event.build_documents(event, SAID, LOJA):
        if document is not None:
            encoded = encode(document)
            again = msgspec.json.decode(encoded, type=type(document))
            assert again == document
            assert encode(again) == encoded
            assert json.loads(encoded)["revision"] == document.revision
    return "cached"
