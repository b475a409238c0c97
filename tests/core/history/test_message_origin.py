"""Who wrote a message: by recordings of Evolution, by WhatsApp's ids, and by what is not known."""

import json
from typing import Any

import msgspec
import pytest

from tests import events
from tests.core.rows import as_of_0_1_0
from tests.recordings import webhooks
from worker.core import chatwoot_event
from worker.core.chatwoot_event import Destination
from worker.core.documents import Message, encode
from worker.core.history.document_views import message_view
from worker.core.history.message_origin import Origin, OriginRules
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import RestConversation, RestMessage, message_body
from worker.core.stream_entry import Entry, read_envelope

EVOLUTION_USER = 27
AGENT = 28
API_ID = "WAID:3EB0EF7C5FC0834DA024D6"
PHONE_ID = "WAID:A5167F2F0354C7E5C9217E7BB46BD1A9"

UNKNOWN = OriginRules()
KNOWN = OriginRules(evolution_users={3: (EVOLUTION_USER,)})
FILLED_LATER = OriginRules(filled_later=True)
USES_WEB = OriginRules(web_is_phone=True)


def message(body: dict[str, Any] | bytes) -> Message:
    """The message that an event is."""
    payload = body if isinstance(body, bytes) else events.encode(body)
    event = chatwoot_event.decode_event(payload)
    assert event is not None
    entry = Entry(b"1790863271500-0", {b"payload": payload})
    found, _ = chatwoot_event.build_documents(event, read_envelope(entry), Destination("loja", 3))
    assert found is not None
    return found


def written_by(sender: dict[str, Any] | None, **others: Any) -> dict[str, Any]:
    """An outgoing message of a sender, created without a source id."""
    return events.sample("02") | {"sender": sender, **others}


def outgoing(
    source_id: str | None, user: int = EVOLUTION_USER, event: str = "message_created"
) -> Message:
    """An outgoing message of a user."""
    sender = {"id": user, "name": "R", "type": "user"}
    return message(written_by(sender, source_id=source_id, event=event))


def by_rest(body: dict[str, Any]) -> Message:
    """The same message, as the REST API gives it to `backfill`."""
    types = {"incoming": 0, "outgoing": 1, "activity": 2, "template": 3}
    given = msgspec.convert(body | {"message_type": types[body["message_type"]]}, RestMessage)
    conversation = msgspec.convert(body["conversation"], RestConversation)
    return message(message_body(given, conversation, Inbox(3, 12, "loja", "Channel::Api")))


RECORDED: dict[str, dict[int, Origin]] = {
    "03": {90010: "contact", 90011: "contact"},
    "04": {
        **dict.fromkeys((90017, 90018, 90019, 90021), "contact"),
        90020: "api",
        90050: "phone",
    },
    "05": {90012: "phone", 90013: "phone"},
    "06": {90014: "api"},
    "07": {90015: "agent", 90016: "agent"},
    "08": {90022: "contact", 90023: "contact", 90024: "phone"},
}
"""Who wrote each message of a scenario: by an `@lid` (04) came a bot's answer and a phone's."""


@pytest.mark.parametrize("rules", [UNKNOWN, KNOWN, FILLED_LATER], ids=["any", "known", "filled"])
@pytest.mark.parametrize("scenario", RECORDED)
def test_recorded_messages_are_of_whom_the_scenario_says(scenario: str, rules: OriginRules) -> None:
    bodies = [b for b in map(json.loads, webhooks(scenario)) if b["event"].startswith("message")]

    assert {b["id"]: rules.origin_of(message(b)) for b in bodies} == RECORDED[scenario]
    if rules is not FILLED_LATER:
        assert {b["id"]: rules.origin_of(by_rest(b)) for b in bodies} == RECORDED[scenario]


@pytest.mark.parametrize(
    ("body", "origin"),
    [
        (events.sample("01"), "contact"),
        (events.sample("02"), "agent"),
        (events.sample("03"), "api"),
        (events.sample("04"), "phone"),
        (events.sample("05"), "agent"),
        (events.sample("06"), "contact"),
        (written_by({"id": 1, "type": "agent_bot"}), "bot"),
        (written_by({"id": 1, "type": "captain_assistant"}), "bot"),
        (written_by({"id": 1, "type": "agent_bot"}, source_id=API_ID), "bot"),
        (written_by(None), "bot"),
        (written_by(None, source_id="wamid.A"), "bot"),
        (written_by(None, source_id=PHONE_ID), "phone"),
        (written_by(None, content_attributes={"automation_rule_id": 4}, source_id=API_ID), "bot"),
        (written_by(None, message_type="template", source_id=API_ID), "bot"),
        (written_by(None, message_type="activity"), None),
    ],
)
def test_who_wrote_a_message(body: dict[str, Any], origin: str | None) -> None:
    view = message_view(encode(message(body)))

    assert view is not None
    assert view.origin == origin
    assert json.loads(view.json)["origin"] == origin


@pytest.mark.parametrize(
    ("whatsapp_id", "origin"),
    [
        ("3EB0EF7C5FC0834DA024D6", "api"),
        ("3E" + "0" * 20, "api"),
        ("3A" + "0" * 18, "phone"),
        ("A" * 32, "phone"),
        ("A" * 21, "phone"),
        ("A" * 18, "phone"),
        ("3F", "phone"),
        ("3F" + "0" * 25, "phone"),
        ("3E" + "0" * 19, "phone"),
        ("3E" + "0" * 21, "api"),
        ("BAE5F1E2D3C4B5A6", "api"),
        ("wamid.HBgNNTUxMTkwMDAwMDA0MhUCABEYEjNB", "api"),
        ("", "api"),
    ],
)
def test_the_shape_of_an_id_tells_phone_and_program_apart(whatsapp_id: str, origin: str) -> None:
    """An unknown shape is a program's: WhatsApp's own applications have no others."""
    assert UNKNOWN.origin_of(outgoing(f"WAID:{whatsapp_id}")) == origin


def test_an_id_without_evolutions_prefix_is_not_evolutions() -> None:
    """Chatwoot's own channels add ids to what agents typed."""
    assert UNKNOWN.origin_of(outgoing("wamid.A")) == "agent"
    assert UNKNOWN.origin_of(outgoing("a@mail.exemplo.test", event="message_updated")) == "agent"


@pytest.mark.parametrize("source_id", [None, API_ID, PHONE_ID])
def test_a_user_whose_token_evolution_has_not_is_an_agent(source_id: str | None) -> None:
    """Evolution posts nothing as that user, whatever id the message got later."""
    assert KNOWN.origin_of(outgoing(source_id, AGENT)) == "agent"
    assert KNOWN.origin_of(outgoing(source_id, AGENT, "message_updated")) == "agent"


def test_users_of_another_account_say_nothing() -> None:
    rules = OriginRules(evolution_users={4: (30,)})

    assert rules.origin_of(outgoing(API_ID)) == "api"


@pytest.mark.parametrize(
    ("source_id", "event", "origin"),
    [
        (API_ID, "message_created", "api"),
        (API_ID, "message_updated", "agent"),
        (PHONE_ID, "message_created", "phone"),
        (PHONE_ID, "message_updated", "phone"),
    ],
)
@pytest.mark.parametrize("release", ["0.1.0", "this"])
def test_an_id_that_evolution_fills_in_later_is_of_an_agents_message(
    source_id: str, event: str, origin: str, release: str
) -> None:
    """Evolution sends agents' messages with ids of its own; a phone's id is a phone's."""
    found = outgoing(source_id, event=event)

    assert FILLED_LATER.origin_of(as_of_0_1_0(found) if release == "0.1.0" else found) == origin
    assert UNKNOWN.origin_of(found) == ("api" if source_id == API_ID else "phone")


@pytest.mark.parametrize("event", ["message_created", "message_updated"])
def test_a_shop_whose_people_use_whatsapp_web_says_so(event: str) -> None:
    assert USES_WEB.origin_of(outgoing(API_ID, event=event)) == "phone"
    assert USES_WEB.origin_of(outgoing("WAID:BAE5F1E2D3C4B5A6", event=event)) == "api"
