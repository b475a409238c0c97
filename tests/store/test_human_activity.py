"""Whether a person is at work: a table of assignee, writer, age and status, on recorded events."""

import copy
import json
import time
from typing import Any, Final, Literal

import msgspec
import pytest

from tests.recordings import webhooks
from tests.store.test_document_writer import INSTANCE, pending_writes
from worker.core.documents import Conversation, encode
from worker.core.history.document_views import conversation_view
from worker.core.history.human_activity import INACTIVE, HumanActivity, Reason
from worker.core.history.message_page import MessageRange
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import (
    RestConversation,
    RestMessage,
    conversation_body,
    message_body,
)
from worker.core.timestamps import to_iso, to_us
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.memory_documents import MemoryDocuments

Json = dict[str, Any]
Assigned = Literal["nobody", "user", "bot"]
Writer = Literal["contact", "agent", "note", "phone", "api", "bot"]
Way = Literal["webhook", "older webhook", "rest"]

CONVERSATION: Final = 1502
WRITERS: Final[dict[Writer, tuple[str, int]]] = {
    "contact": ("03", 90010),
    "agent": ("07", 90015),
    "note": ("07", 90016),
    "phone": ("05", 90012),
    "api": ("06", 90014),
    "bot": ("06", 90014),
}
"""The recorded message of each writer; no agent bot was recorded."""

ASSIGNEES: Final[dict[Assigned, Json]] = {
    "nobody": {"assignee": None, "assignee_type": None},
    "user": {"assignee": {"id": 28, "name": "Ana Castro", "type": "user"}, "assignee_type": "User"},
    "bot": {
        "assignee": {"id": 5, "name": "Robô", "type": "agent_bot"},
        "assignee_type": "AgentBot",
    },
}
TABLE: Final[dict[Writer, dict[Assigned, Reason | None]]] = {
    "contact": {"nobody": None, "user": "assigned", "bot": None},
    "agent": {"nobody": "agent_wrote", "user": "assigned", "bot": "agent_wrote"},
    "note": {"nobody": None, "user": "assigned", "bot": None},
    "phone": {"nobody": "phone_wrote", "user": "assigned", "bot": "phone_wrote"},
    "api": {"nobody": None, "user": "assigned", "bot": None},
    "bot": {"nobody": None, "user": "assigned", "bot": None},
}
"""The reason in a conversation that is not resolved, for a message within the window."""

CASES: Final = [(writer, assigned) for writer, row in TABLE.items() for assigned in row]


def event(writer: Writer, assigned: Assigned, *, ago_s: float = 60, status: str = "open") -> Json:
    """The recorded event of a writer's message, now, in a conversation with an assignee."""
    scenario, message_id = WRITERS[writer]
    bodies = [json.loads(body) for body in webhooks(scenario)]
    body: Json
    (body,) = (b for b in bodies if b["id"] == message_id and b["event"] == "message_created")
    at_us = int((time.time() - ago_s) * 1000) * 1000
    body["created_at"] = to_iso(at_us)
    conversation = body["conversation"]
    conversation |= {
        "status": status,
        "updated_at": at_us / 1e6,
        "last_activity_at": at_us // 10**6,
    }
    conversation["meta"] |= copy.deepcopy(ASSIGNEES[assigned])
    for latest in conversation["messages"]:
        latest["updated_at"] = to_iso(at_us)
    if writer == "bot":
        body |= {"sender": {"id": 5, "name": "Robô", "type": "agent_bot"}, "source_id": None}
    return body


def arriving(body: Json, way: Way) -> list[Json]:
    """The event as it comes: from Chatwoot today, from one without `assignee_type`, or by REST."""
    meta = body["conversation"]["meta"]
    if way == "older webhook":
        del meta["assignee_type"]
    if way != "rest":
        return [body]
    # There, an assignee has no type of its own.
    (meta["assignee"] or {}).pop("type", None)
    inbox = Inbox(3, 12, INSTANCE, "Channel::Api")
    number = {"incoming": 0, "outgoing": 1}[body["message_type"]]
    message = msgspec.convert(body | {"message_type": number}, RestMessage)
    conversation = msgspec.convert(body["conversation"], RestConversation)
    sent = message_body(message, conversation, inbox), conversation_body(conversation, inbox)
    return [json.loads(text) for text in sent]


async def human(*bodies: Json, window_s: int = 3600) -> HumanActivity:
    """What a reader is told after these events."""
    settings = CacheSettings("p", ttl_s=100_000)
    memory = MemoryDocuments(settings, 10**7, accounts={INSTANCE: 3}, is_whole=lambda: True)
    for sequence, body in enumerate(bodies):
        await memory.write(pending_writes(body, sequence=sequence))
    reader = DocumentReader(memory, "p").of(INSTANCE)
    page = await reader.page(CONVERSATION, MessageRange(), window_s)
    assert page is not None
    assert page.human_active is page.human.active
    return page.human


def expected(reason: Reason | None, body: Json, window_s: int = 3600) -> HumanActivity:
    """The answer for a reason, with the times of a message."""
    if reason in (None, "assigned"):
        return HumanActivity(reason is not None, reason, None, None)
    at_us = to_us(body["created_at"])
    return HumanActivity(True, reason, body["created_at"], to_iso(at_us + window_s * 10**6))


@pytest.mark.parametrize("way", ["webhook", "older webhook", "rest"])
@pytest.mark.parametrize("status", ["open", "pending", "snoozed"])
@pytest.mark.parametrize(("writer", "assigned"), CASES)
async def test_the_table(writer: Writer, assigned: Assigned, status: str, way: Way) -> None:
    body = event(writer, assigned, status=status)
    told = await human(*arriving(copy.deepcopy(body), way))

    assert told == expected(TABLE[writer][assigned], body)


@pytest.mark.parametrize("way", ["webhook", "rest"])
@pytest.mark.parametrize(("writer", "assigned"), CASES)
async def test_nobody_is_at_work_in_a_resolved_conversation(
    writer: Writer, assigned: Assigned, way: Way
) -> None:
    assert await human(*arriving(event(writer, assigned, status="resolved"), way)) == INACTIVE


@pytest.mark.parametrize(("writer", "assigned"), CASES)
async def test_after_the_window_only_an_assignment_counts(
    writer: Writer, assigned: Assigned
) -> None:
    body = event(writer, assigned, ago_s=3700)
    reason: Reason | None = "assigned" if assigned == "user" else None

    assert await human(body) == expected(reason, body)
    assert await human(body, window_s=3800) == expected(TABLE[writer][assigned], body, 3800)


@pytest.mark.parametrize("assigned", ["nobody", "bot"])
async def test_the_last_of_the_people_who_wrote_is_named(assigned: Assigned) -> None:
    """What programs write after them changes nothing."""
    phone, agent = event("phone", assigned, ago_s=200), event("agent", assigned, ago_s=100)
    api = event("api", assigned, ago_s=50)

    assert await human(phone, agent, api) == expected("agent_wrote", agent)
    assert await human(phone, api) == expected("phone_wrote", phone)


@pytest.mark.parametrize("assigned", ["nobody", "user"])
async def test_a_reopening_restores_what_the_resolution_hid(assigned: Assigned) -> None:
    body = event("agent", assigned, ago_s=300)
    steps = [body]
    for ago_s, status in ((200, "resolved"), (100, "open")):
        conversation = event("agent", assigned, ago_s=ago_s, status=status)["conversation"]
        steps.append({**conversation, "event": "conversation_status_changed"})

    assert await human(*steps[:2]) == INACTIVE
    assert await human(*steps) == expected(TABLE["agent"][assigned], body)


def test_an_assignee_that_0_1_0_wrote_counts_as_a_person() -> None:
    """It kept no type. The next event of the conversation adds it."""
    (_, write) = pending_writes(event("contact", "bot"))
    assert isinstance(write.document, Conversation)
    stored = json.loads(encode(write.document))
    of_today = conversation_view(json.dumps(stored).encode())
    del stored["assignee"]["type"]
    of_0_1_0 = conversation_view(json.dumps(stored).encode())

    assert of_today is not None
    assert of_0_1_0 is not None
    assert (of_today.assigned, of_0_1_0.assigned) == (False, True)
