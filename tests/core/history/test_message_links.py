"""Which message a message quotes, reacts to or edits, and how a chat shows it.

No recording here has an edit, a quote or a reaction. These payloads are made up, in the shape that
Evolution 2.3.7 was seen to send: an edit is a new message with the original's source id, in reply
to it, behind a marker; a reaction is a new message with one emoji, in reply to its target.
"""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests import events, recordings
from tests.core.history.test_document_views import message, view
from worker.core.documents import encode
from worker.core.history.chat_format import as_chat
from worker.core.history.document_views import MessageView, message_view
from worker.core.history.message_links import link

MARKER = "\n\n`Mensagem editada:`\n\n"
DELETED = {"deleted": True}


def sent(message_id: int, content: str | None = "Oi!", **members: Any) -> dict[str, Any]:
    """A message with WhatsApp's id; `reply` and `external` are what it says of its target."""
    reply, external = members.pop("reply", None), members.pop("external", None)
    body = events.message(message_id, content=content, source_id=f"WAID:3EB0{message_id}")
    attributes = {"in_reply_to": reply, "in_reply_to_external_id": external}
    return body | {"content_attributes": attributes, **members}


def edit(message_id: int, original: int, content: str, **members: Any) -> dict[str, Any]:
    """An edit on the phone."""
    source = {"source_id": f"WAID:3EB0{original}", "reply": original, **members}
    return sent(message_id, MARKER + content, **source)


def outgoing(body: dict[str, Any]) -> dict[str, Any]:
    """The same message, written by the bot."""
    return body | {"message_type": "outgoing", "sender": {"id": 27, "name": "R", "type": "user"}}


def listed(*bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """The members of messages in a list, checked to be the stored ones and the links."""
    views = [view(body) for body in bodies]
    found = [json.loads(linked.json) for linked in link(views)]
    for members, body in zip(found, bodies, strict=True):
        stored = json.loads(encode(message(body)))
        assert list(members)[: len(stored) + 1] == [*stored, "origin"]
    return found


def chat(*bodies: dict[str, Any]) -> list[tuple[str, str]]:
    """The turns of a chat, whose roles are shortened."""
    turns = json.loads(as_chat(link([view(body) for body in bodies])))
    return [(turn["role"][0], turn["content"]) for turn in turns]


class TestEdits:
    def test_both_messages_stay_in_a_list(self) -> None:
        original, between, edited = listed(sent(1), sent(2), edit(3, 1, "Olá!"))

        assert (original["edited"], original["content"]) == (True, "Oi!")
        assert (edited["edits"], edited["in_reply_to"]) == (1, 1)
        assert edited["content"] == f"{MARKER}Olá!"
        assert {"edits", "edited", "reaction"}.isdisjoint(between)

    def test_a_chat_has_the_new_text_at_the_originals_place(self) -> None:
        assert chat(sent(1), outgoing(sent(2, "Bom dia")), edit(3, 1, "Olá!")) == [
            ("u", "Olá!"),
            ("a", "Bom dia"),
        ]

    def test_the_newest_edit_wins(self) -> None:
        bodies = (sent(1), edit(2, 1, "a"), edit(3, 1, "b"))

        assert chat(*bodies) == [("u", "b")]
        assert [found.get("edits") for found in listed(*bodies)] == [None, 1, 1]

    def test_without_its_original_it_is_a_turn(self) -> None:
        assert chat(edit(2, 1, "a"), sent(3), edit(4, 1, "b")) == [("u", "Oi!"), ("u", "b")]
        assert "edits" not in listed(edit(2, 1, "a"))[0]

    def test_the_source_id_alone_tells_the_original(self) -> None:
        assert chat(sent(1), edit(2, 1, "a", reply=None)) == [("u", "a")]

    def test_an_original_without_source_id_was_typed_in_chatwoot(self) -> None:
        """Evolution knows its Chatwoot id; without the import database it gets no source id."""
        original = outgoing(sent(1) | {"source_id": None})

        assert chat(original, outgoing(edit(2, 1, "a"))) == [("a", "a")]

    def test_a_reply_that_looks_like_an_edit_is_none_of_another_message(self) -> None:
        """The source id is not the original's."""
        original, reply = listed(sent(1), sent(2, f"{MARKER}x", reply=1))

        assert "edited" not in original
        assert (reply["in_reply_to"], reply.get("edits")) == (1, None)

    def test_of_a_deleted_message_no_edit_has_text(self) -> None:
        """Evolution deletes only the original in Chatwoot."""
        bodies = (sent(1, "This message was deleted", content_attributes=DELETED), edit(2, 1, "a"))

        assert chat(*bodies) == []
        assert [found["content"] for found in listed(*bodies)] == [None, None]

    def test_a_deleted_edit_changes_nothing(self) -> None:
        gone = edit(2, 1, "a") | {"content_attributes": DELETED}

        assert chat(sent(1), gone) == [("u", "Oi!")]
        assert "edited" not in listed(sent(1), gone)[0]

    def test_in_a_group_the_author_stays(self) -> None:
        """Evolution writes no author before an edit."""
        author = "**+55 11 90000 0042 - Marina:**\n\n"

        assert chat(sent(1, f"{author}Oi"), edit(2, 1, "Olá")) == [("u", f"{author}Olá")]

    def test_attachments_stay_beside_an_edited_caption(self) -> None:
        photo = events.sample("06") | {"id": 1, "content": "esta", "source_id": "WAID:3EB01"}

        assert chat(photo, edit(2, 1, "aquela")) == [("u", "[image: caixa.jpg]\naquela")]


class TestQuotes:
    @pytest.mark.parametrize(
        "reference",
        [
            {"reply": 1},
            {"reply": "1"},
            {"external": "3EB01"},
            {"external": "WAID:3EB01"},
            {"reply": 77, "external": "WAID:3EB01"},
        ],
    )
    def test_a_quote_is_resolved_by_any_id(self, reference: dict[str, Any]) -> None:
        assert listed(sent(1), sent(2, "Sim", **reference))[1]["in_reply_to"] == 1

    @pytest.mark.parametrize(
        "reference",
        [{"reply": 77}, {"reply": 2}, {"external": "3EB0"}, {"reply": True}, {"reply": [1]}, {}],
    )
    def test_what_is_not_there_is_null(self, reference: dict[str, Any]) -> None:
        """Neither the message itself, nor what is no id."""
        assert listed(sent(1), sent(2, "Sim", **reference))[1]["in_reply_to"] is None

    def test_a_chat_shows_a_quote_as_a_line(self) -> None:
        long = "Qual das caixas?\n" + "x" * 100

        assert chat(outgoing(sent(1, long)), sent(2, "A grande", reply=1))[1] == (
            "u",
            f"> Qual das caixas? {'x' * 83}…\nA grande",
        )

    def test_an_edit_without_its_original_is_quoted_itself(self) -> None:
        """By whoever quotes the original: the newest edit of those that are there."""
        bodies = (edit(2, 1, "a"), edit(3, 1, "b"), sent(4, "x", reply=1, external="WAID:3EB01"))

        assert chat(*bodies) == [("u", "b"), ("u", "> b\nx")]
        assert [found["in_reply_to"] for found in listed(*bodies)] == [None, None, 3]

    def test_an_attachment_is_quoted_by_type_and_name(self) -> None:
        photo = events.sample("06") | {"id": 1}

        assert chat(photo, sent(2, "Essa", reply=1))[1] == ("u", "> [image: caixa.jpg]\nEssa")

    def test_an_edited_message_is_quoted_with_its_new_text(self) -> None:
        """Also by those who quote the edit."""
        bodies = (sent(1), edit(2, 1, "Olá!"), sent(3, "x", reply=1), sent(4, "y", reply=2))

        assert chat(*bodies)[1:] == [("u", "> Olá!\nx"), ("u", "> Olá!\ny")]
        assert [found["in_reply_to"] for found in listed(*bodies)] == [None, 1, 1, 1]

    @pytest.mark.parametrize("members", [{"private": True}, {"content_attributes": DELETED}])
    def test_no_chat_quotes_what_it_leaves_out(self, members: dict[str, Any]) -> None:
        assert chat(sent(1, "secret", **members), sent(2, "Sim", reply=1)) == [("u", "Sim")]


class TestReactions:
    def test_a_reaction_is_a_line_of_its_target(self) -> None:
        bodies = (outgoing(sent(1, "Amanhã às 9?")), sent(2), sent(3, "👍🏽", reply=1))

        assert chat(*bodies) == [("a", "Amanhã às 9?\n[user reacted: 👍🏽]"), ("u", "Oi!")]
        assert [found.get("reaction") for found in listed(*bodies)] == [None, None, True]

    def test_one_emoji_without_reply_is_a_message(self) -> None:
        assert chat(sent(1), sent(2, "👍")) == [("u", "Oi!"), ("u", "👍")]
        assert "reaction" not in listed(sent(2, "👍"))[0]

    def test_an_emoji_in_a_private_note_is_no_reaction(self) -> None:
        assert chat(sent(1), sent(2, "👍", reply=1, private=True)) == [("u", "Oi!")]

    def test_a_reaction_to_what_is_not_there_is_no_turn(self) -> None:
        assert chat(sent(2, "👍", reply=1)) == []
        assert listed(sent(2, "👍", reply=1))[0]["reaction"] is True

    def test_a_reaction_to_an_edited_message(self) -> None:
        """Whether its original is in the page or not."""
        bodies = (sent(1), edit(2, 1, "Olá!"), sent(3, "👍", reply=1))
        shown = [("u", "Olá!\n[user reacted: 👍]")]
        views = link([view(body) for body in bodies])

        assert chat(*bodies) == shown
        turns = json.loads(as_chat(views[1:], views[:1]))
        assert [("u", turn["content"]) for turn in turns] == shown


@pytest.mark.parametrize("scenario", ["03", "05", "06", "07", "08"])
def test_recorded_messages_without_links_have_none(scenario: str) -> None:
    """Each says `in_reply_to: null`, or nothing; group messages keep their authors."""
    recorded = map(json.loads, recordings.webhooks(scenario))
    bodies = [body for body in recorded if body["event"] == "message_created"]
    found = listed(*bodies)

    assert found
    assert all(members["in_reply_to"] is None for members in found)
    assert all({"edits", "edited", "reaction"}.isdisjoint(members) for members in found)
    public = [body["content"] for body in bodies if not body["private"]]
    assert [text for _, text in chat(*bodies)] == public


def test_a_deleted_message_has_no_text() -> None:
    """Not even Chatwoot's placeholder, which is of the account's language."""
    stored = message(events.sample("07"))
    found = listed(events.sample("07"))[0]

    assert stored.content is not None
    assert (found["content"], found["attachments"], found["deleted"]) == (None, [], True)


@st.composite
def pages(draw: st.DrawFn) -> list[MessageView]:
    """Messages of any conversation, account and instance, which refer to each other."""
    ids = draw(st.lists(st.integers(1, 6), unique=True, max_size=6))
    some = []
    for number in ids:
        source_id = draw(st.sampled_from([None, "WAID:3EB01", "WAID:3EB02", "3EB01"]))
        content = draw(st.sampled_from(["a", "👍", f"{MARKER}x"]))
        reply = draw(st.none() | st.integers(1, 7))
        external = draw(st.sampled_from([None, "3EB01", "WAID:3EB02"]))
        body = sent(number, content, reply=reply, external=external, source_id=source_id)
        found = message_view(encode(message(body)))
        assert found is not None
        place = draw(st.sampled_from([("a", 3, 1), ("a", 3, 2), ("a", 4, 1), ("b", 3, 1)]))
        instance, account, conversation = place
        some.append(
            replace(found, instance=instance, account_id=account, conversation_id=conversation)
        )
    return some


@given(pages(), st.randoms(use_true_random=False))
def test_no_link_leaves_the_conversation(views: list[MessageView], random: Any) -> None:
    """Nor the instance or the account; and it is the same from either side."""
    places = {v.id: (v.instance, v.account_id, v.conversation_id) for v in views}
    cut = random.randint(0, len(views))
    found = [*link(views[:cut], views[cut:]), *link(views[cut:], views[:cut])]

    assert found == link(views)
    for linked in found:
        members = json.loads(linked.json)
        assert members["in_reply_to"] == linked.links.in_reply_to
        assert members.get("edits") == linked.links.edits
        for other in linked.links:
            assert other is None or places[other] == places[linked.id]
            assert other != linked.id
    json.loads(as_chat(found))


@given(pages())
def test_what_refers_to_nothing_is_the_stored_view(views: list[MessageView]) -> None:
    plain = [v for v in views if v.reply is None and not v.is_edit]

    assert link(plain) == plain
