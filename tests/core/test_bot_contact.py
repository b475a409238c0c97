"""Evolution's bot contact is recognised wherever a webhook names it, and nobody else is."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests import events
from tests.recordings import webhooks
from worker.core.bot_contact import is_about_bot

BOT = {"id": 4001, "name": "EvolutionAPI", "identifier": None, "phone_number": "+123456"}
NAMED = {"id": 4001, "identifier": "123456", "phone_number": None}
CLIENT = {"id": 1, "identifier": "5511900000042@s.whatsapp.net", "phone_number": "+5511900000042"}


@pytest.mark.parametrize("body", [*webhooks("01"), *webhooks("02")])
def test_every_webhook_of_the_bot_conversation_is_recognised(body: bytes) -> None:
    """As recorded: its messages, what an agent types to it, and the conversation's own events."""
    assert is_about_bot(body)


@pytest.mark.parametrize("scenario", ["03", "04", "05", "06", "07", "08"])
def test_no_webhook_of_another_conversation_is(scenario: str) -> None:
    bodies = webhooks(scenario)

    assert bodies
    assert not any(map(is_about_bot, bodies))


@pytest.mark.parametrize("bot", [BOT, NAMED])
@pytest.mark.parametrize(
    "place",
    [
        lambda bot: bot | {"event": "contact_created"},
        lambda bot: {"sender": bot},
        lambda bot: {"contact": bot},
        lambda bot: {"meta": {"sender": bot}},
        lambda bot: {"messages": [{"sender": CLIENT}, {"sender": bot}]},
        lambda bot: {"conversation": {"meta": {"sender": bot}}},
        lambda bot: {"conversation": {"messages": [{"sender": bot}]}},
    ],
)
def test_it_is_recognised_by_either_name_wherever_people_are_named(bot: Any, place: Any) -> None:
    assert is_about_bot(events.encode(place(bot)))


@pytest.mark.parametrize(
    "person",
    [
        CLIENT,
        {"identifier": "1234567", "phone_number": "+1234567"},
        {"identifier": "123456@lid", "phone_number": "+55123456"},
        {"identifier": ["123456"], "phone_number": {"+123456": "+123456"}},
        "123456",
    ],
)
def test_nobody_else_is(person: Any) -> None:
    body = events.message(content="+123456", source_id="123456")
    body["sender"] = body["conversation"]["meta"]["sender"] = person
    attributes = {"identifier": "123456", "phone_number": "+123456", "sender": BOT}
    body["content_attributes"] = body["conversation"]["custom_attributes"] = attributes

    assert not is_about_bot(events.encode(body))


@pytest.mark.parametrize("length", [500, 2500])
def test_half_a_body_is_judged_by_its_text(length: int) -> None:
    body = webhooks("02")[0]
    half = body[: body.index(b"+123456") + length]

    assert is_about_bot(half)
    assert not is_about_bot(half.replace(b"+123456", b"+1234567"))


@given(st.binary())
def test_whatever_comes_gets_an_answer(noise: bytes) -> None:
    assert not is_about_bot(noise) or b"123456" in noise


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just("123456") | st.just("+123456"),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b", *BOT]), inner),
)


@given(st.dictionaries(st.sampled_from(["content_attributes", "custom_attributes"]), JSON))
def test_attributes_never_count(attributes: dict[str, Any]) -> None:
    body = events.message() | attributes
    body["conversation"] |= attributes

    assert not is_about_bot(events.encode(body))
