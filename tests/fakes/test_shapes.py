"""The fakes reply in the shapes of the real services, as far as the worker reads them."""

import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.events import sample
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.evolution import Evolution
from tests.fakes.http import Reply
from tests.fakes.rows import ConversationRow
from worker.chatwoot.evolution_client import EvolutionClient
from worker.chatwoot.http_client import RequestPolicy
from worker.chatwoot.rest_client import ChatwootClient
from worker.core.rest_to_webhook import RestConversation, RestMessage

SAMPLES = Path(__file__).parent / "recorded"
ACCOUNT = "/api/v1/accounts/3"
PATHS = {
    "chatwoot_inboxes": f"{ACCOUNT}/inboxes",
    "chatwoot_webhooks": f"{ACCOUNT}/webhooks",
    "chatwoot_conversations": f"{ACCOUNT}/conversations",
    "chatwoot_messages": f"{ACCOUNT}/conversations/1584/messages",
    "evolution_instances": "/instance/fetchInstances",
}
NOW_US = 1_790_863_271_498_000


def recorded(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


@pytest.fixture
def chatwoot() -> Iterator[Chatwoot]:
    with Chatwoot() as server:
        server.add_inbox(12, "loja-aurora", "http://evolution:8080/chatwoot/webhook/loja-aurora")
        server.webhooks[3].append(
            {"id": 5, "name": None, "url": "http://x.test", "subscriptions": [], "secret": "s"}
        )
        server.add_conversation(row())
        yield server


def row() -> ConversationRow:
    found = ConversationRow(1584, 3, 12, "loja-aurora", NOW_US, NOW_US, NOW_US)
    found.add(90214, NOW_US, "Oi!", source_id="WAID:3EB0A1B2C3D4E5F60718")
    return found


def misfits(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """Yield each member of ours that theirs lacks, or has of another type; null fits anything."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            if name not in theirs:
                yield f"{at}.{name}"
            else:
                yield from misfits(value, theirs[name], f"{at}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for item in ours[:1]:
            yield from misfits(item, theirs[0] if theirs else item, f"{at}[]")
    elif None not in (ours, theirs) and type(ours) is not type(theirs):
        yield f"{at}: {type(ours).__name__}, not {type(theirs).__name__}"


@pytest.mark.parametrize("name", [name for name in PATHS if name.startswith("chatwoot")])
def test_chatwoot_answers_as_recorded(name: str, chatwoot: Chatwoot) -> None:
    headers = {"api_access_token": "admin-token"}
    answer = httpx.get(f"{chatwoot.url}{PATHS[name]}", headers=headers, trust_env=False).json()

    assert list(misfits(answer, recorded(name))) == []


def test_evolution_answers_as_recorded() -> None:
    with Evolution() as evolution:
        evolution.add("loja-aurora", url="https://chat.exemplo.test")
        url = f"{evolution.url}{PATHS['evolution_instances']}"
        answer = httpx.get(url, headers={"apikey": evolution.apikey}, trust_env=False).json()

    assert list(misfits(answer, recorded("evolution_instances"))) == []


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: row().webhook(row().messages[0], "message_created"), "01"),
        (lambda: row().conversation_webhook("conversation_status_changed"), "11"),
    ],
)
def test_webhooks_are_as_chatwoots(made: Callable[[], Any], name: str) -> None:
    assert list(misfits(made(), sample(name))) == []


async def test_what_is_recorded_is_read_whole(chatwoot: Chatwoot) -> None:
    """By the adapters, from servers that answer it."""
    message = msgspec.structs.asdict(
        msgspec.convert(recorded("chatwoot_messages")["payload"][0], RestMessage)
    )
    assert all(message[name] is not None for name in ("content", "status", "source_id", "sender"))
    listed = recorded("chatwoot_conversations")["data"]["payload"][0]
    conversation = msgspec.convert(listed, RestConversation)
    assert conversation.clock_us() == 1_790_863_271_722_044
    assert conversation.latest_public() is not None

    chatwoot.fault = lambda request: _recorded_reply(request.path)
    policy = RequestPolicy(timeout_s=5)
    async with aclosing(ChatwootClient(chatwoot.url, "admin-token", 3, policy)) as account:
        (inbox,) = await account.inboxes()
        assert (inbox.key, inbox.channel) == ("3/12", "Channel::Api")
        (webhook,) = await account.webhooks()
        assert webhook.secret == "FictionalSecret000000000"
        assert (await account.conversations(12, 1)).count == 1
        assert [message.id for message in await account.messages(1584)] == [90214]
    async with aclosing(EvolutionClient(chatwoot.url, "key", timeout_s=5)) as evolution:
        (instance,) = await evolution.instances()
    assert instance.chatwoot is not None
    assert (instance.chatwoot.account_id, instance.chatwoot.inbox_name) == (3, "loja-aurora")


def _recorded_reply(path: str) -> Any:
    name = next(name for name, known in PATHS.items() if known == path)
    return Reply(200, recorded(name))
