"""The stream of the benchmarks: the same for everybody, and of what Evolution's inboxes send."""

import json
from collections import Counter
from statistics import mean

import pytest

from bench.events import INSTANCES_OF_ACCOUNT, Traffic, bodies
from worker.core.chatwoot_event import API_CHANNEL, decode_event

COUNT = 5_000


def test_is_the_same_every_time() -> None:
    assert list(bodies(500)) == list(bodies(500))


def test_is_sixty_percent_created_and_every_event_is_one_that_is_cached() -> None:
    names: Counter[str] = Counter()
    for body in bodies(COUNT):
        event = decode_event(body)
        assert event is not None
        assert event.channel == API_CHANNEL
        names[event.name] += 1
    assert set(names) == {"message_created", "message_updated"}
    assert 0.57 < names["message_created"] / COUNT < 0.63


def test_has_the_sizes_of_the_field() -> None:
    sizes = sorted(map(len, bodies(COUNT)))
    assert sizes[0] > 2_000
    assert 2_500 < mean(sizes) < 4_000
    assert 4_000 < sizes[COUNT * 99 // 100] < 8_000


def test_moves_messages_on_and_deletes_a_few() -> None:
    updates = [json.loads(body) for body in bodies(COUNT)]
    updates = [body for body in updates if body["event"] == "message_updated"]
    deleted = [body for body in updates if body["content_attributes"].get("deleted")]
    latest = [body["conversation"]["messages"][0] for body in updates]
    assert 0 < len(deleted) < len(updates) / 10
    assert {"delivered", "read"} < {message["status"] for message in latest}
    # Where another message is the newest, nothing is said about the updated one's status.
    assert any(message["id"] != body["id"] for message, body in zip(latest, updates, strict=True))


def test_gives_each_inbox_one_instance_and_each_instance_one_account() -> None:
    found = set()
    for body in bodies(COUNT, Traffic(instances=7)):
        event = decode_event(body)
        assert event is not None
        found.add((event.account_id, event.inbox_id, event.inbox_name))
    assert len(found) == len({name for _, _, name in found}) == 7
    assert len({account for account, _, _ in found}) == -(-7 // INSTANCES_OF_ACCOUNT)


@pytest.mark.parametrize("size", [1_500, 10_000, 1_000_000])
def test_has_the_size_that_is_asked_for(size: int) -> None:
    sizes = list(map(len, bodies(50, Traffic(body_bytes=size))))
    assert mean(sizes) == pytest.approx(size, rel=0.2)
