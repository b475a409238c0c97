"""`backfill`: everything Chatwoot knows comes to the stream once, and goes on after a failure."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.chatwoot.conftest import Command
from tests.fakes.chatwoot import Chatwoot
from tests.fakes.http import HTML, Reply, Request
from tests.fakes.rows import ConversationRow
from worker.chatwoot.http_client import MAX_REPLY_BYTES
from worker.core.operations.acl_rules import rules

Entries = Callable[[], list[dict[str, Any]]]
NOW_US = int(time.time()) * 1_000_000
HOUR_US = 3_600_000_000


@pytest.fixture
def stream(redis_uri: str, prefix: str) -> Iterator[Entries]:
    """What is on the stream: each payload with the fields beside it."""
    with redis.Redis.from_url(redis_uri) as client:

        def read() -> list[dict[str, Any]]:
            stored: Any = client.xrange(f"{prefix}:events")
            return [
                {
                    "id": entry_id.decode(),
                    "body": json.loads(fields[b"payload"]),
                    **{name.decode(): value.decode() for name, value in fields.items()},
                }
                for entry_id, fields in stored
            ]

        yield read


@pytest.fixture(autouse=True)
def connected(tmp_path: Path, chatwoot: Chatwoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inbox 3/12 is `loja`, and Chatwoot is known, without a limit that tests would wait for."""
    monkeypatch.setenv("CHATWOOT_CACHE_INSTANCES", '{"3/12": "loja"}')
    known = {"URL": chatwoot.url, "TOKEN": "admin-token", "REQUESTS_PER_S": "1000"}
    lines = [f"CHATWOOT_CACHE_CHATWOOT_{name}={value}\n" for name, value in known.items()]
    (tmp_path / "connect.env").write_text("".join(lines))


def conversation(
    chatwoot: Chatwoot, number: int, messages: int, *, age_us: int = HOUR_US, inbox_id: int = 12
) -> ConversationRow:
    """A conversation whose messages are a millisecond apart, the last one so old."""
    born_us = NOW_US - age_us - messages * 1000
    row = ConversationRow(number, 3, inbox_id, "loja", born_us, born_us, born_us)
    for n in range(1, messages + 1):
        row.add(1000 * number + n, born_us + n * 1000, f"text {n}")
    return chatwoot.add_conversation(row)


def ids(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["body"]["id"] for entry in entries]


def test_reads_every_page_of_every_conversation_once(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    for number in range(1, 31):
        conversation(chatwoot, number, 45 if number == 1 else 2)

    result = command("backfill", "loja")

    assert (result.code, result.err) == (0, "")
    assert "Put 103 messages of 30 conversations of 'loja'" in result.out
    assert sorted(ids(stream())) == sorted(
        row.id for found in chatwoot.conversations[3] for row in found.messages
    )
    (entry,) = [e for e in stream() if e["body"]["id"] == 1045]
    assert (entry["instance"], entry["account"]) == ("loja", "3")
    assert int(entry["_id"].partition("-")[0]) < int(entry["id"].partition("-")[0])
    assert entry["body"]["event"] == "message_updated"
    assert entry["body"]["conversation"]["messages"][0]["status"] == "sent"


def test_leaves_out_lines_other_inboxes_and_the_bot_and_keeps_notes(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    row = conversation(chatwoot, 1, 1)
    row.add(1101, NOW_US - HOUR_US, "assigned", message_type=2)
    row.add(1102, NOW_US - HOUR_US, "note", message_type=1, private=True)
    conversation(chatwoot, 2, 1, inbox_id=13)
    conversation(chatwoot, 3, 1).contact["identifier"] = "123456"
    chatwoot.fault = without_filter(chatwoot)

    assert command("backfill", "loja").code == 0
    assert sorted(ids(stream())) == [1001, 1102]
    (note,) = [e["body"] for e in stream() if e["body"]["private"]]
    assert note["message_type"] == 1


def without_filter(chatwoot: Chatwoot) -> Callable[[Request], Reply | None]:
    """A Chatwoot that lists all inboxes, whichever was asked for."""

    def fault(request: Request) -> Reply | None:
        if not request.path.endswith("/conversations") or request.query.get("page") != "1":
            return None
        listed = [row.rest() for row in chatwoot.conversations[3]]
        return Reply(200, {"data": {"meta": {"all_count": len(listed)}, "payload": listed}})

    return fault


def test_a_conversation_without_messages_comes_as_itself(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    conversation(chatwoot, 1, 0).add(1001, NOW_US - HOUR_US, "opened", message_type=2)

    assert command("backfill", "loja").code == 0
    (entry,) = stream()
    assert (entry["body"]["event"], entry["body"]["id"]) == ("conversation_updated", 1)


def test_days_bound_how_far_back_it_reads(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    conversation(chatwoot, 1, 30, age_us=30 * 24 * HOUR_US)
    recent = conversation(chatwoot, 2, 30, age_us=3 * 24 * HOUR_US)
    recent.add(2999, NOW_US - HOUR_US, "today")

    assert command("backfill", "loja", "--days", "1").code == 0
    assert ids(stream()) == [2999]
    assert command("backfill", "loja", "--days", "60").code == 0
    assert set(ids(stream())) == {*range(1001, 1031), *range(2001, 2031), 2999}


def test_one_conversation_is_read_from_its_beginning(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    conversation(chatwoot, 1, 50, age_us=400 * 24 * HOUR_US)
    conversation(chatwoot, 2, 1, inbox_id=13)

    assert command("backfill", "loja", "--conversation", "1").code == 0
    assert sorted(ids(stream())) == list(range(1001, 1051))
    for other in ("2", "3"):
        result = command("backfill", "loja", "--conversation", other)
        assert result.code == 2
        assert f"conversation {other} is in no inbox of 'loja'" in result.err


def test_a_conversation_that_moves_up_while_it_reads_is_not_missed(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    for number in range(1, 61):
        conversation(chatwoot, number, 1, age_us=HOUR_US + number * 1_000_000)
    last = chatwoot.conversations[3][-1]

    def move(request: Request) -> None:
        if request.query.get("page") == "2" and last.id == 60 and len(last.messages) == 1:
            last.add(60_999, NOW_US, "moved")

    chatwoot.fault = move

    assert command("backfill", "loja").code == 0
    assert {60_001, 60_999} <= set(ids(stream()))


def test_a_message_written_between_the_requests_is_dated_by_a_later_reading(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    row = conversation(chatwoot, 1, 2)

    def write(request: Request) -> None:
        if request.path.endswith("/messages") and len(row.messages) == 2:
            row.add(1003, NOW_US, "new")

    chatwoot.fault = write

    assert command("backfill", "loja").code == 0
    assert sorted(ids(stream())) == [1001, 1002, 1003]
    clocks = {entry["body"]["conversation"]["last_activity_at"] for entry in stream()}
    assert clocks == {NOW_US // 1_000_000}
    assert len([path for path in chatwoot.paths() if path.endswith("/conversations/1")]) == 1


def test_goes_on_where_it_stopped_and_begins_anew_after_it_ended(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    for number in (1, 2):
        conversation(chatwoot, number, 100)
    left = iter(range(5))

    def fail(request: Request) -> Reply | None:
        if request.path.endswith("/messages") and next(left, None) is None:
            return Reply(401, {"error": "Invalid Access Token"})
        return None

    chatwoot.fault = fail
    result = command("backfill", "loja")
    assert result.code == 1
    assert "run the same command again to continue" in result.err
    assert "answers 401" in result.err
    before = len(stream())
    assert 0 < before < 200

    chatwoot.fault = lambda _request: None
    assert command("backfill", "loja").code == 0
    assert len(stream()) == len(set(ids(stream()))) == 200
    assert command("backfill", "loja").code == 0
    assert len(stream()) == 400


def test_limits_and_failures_that_pass_are_waited_for(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    conversation(chatwoot, 1, 3)
    faults = iter(
        [
            Reply(429, b"Retry later\n", {"Retry-After": "0"}),
            Reply(
                429,
                b"Retry later\n",
                {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"},
            ),
            None,
            Reply(429, b"Retry later\n", {"Retry-After": "0"}),
        ]
    )
    chatwoot.fault = lambda _request: next(faults, None)

    assert command("backfill", "loja").code == 0
    assert sorted(ids(stream())) == [1001, 1002, 1003]


def test_a_conversation_that_is_deleted_meanwhile_is_passed_over(
    command: Command, chatwoot: Chatwoot, stream: Entries
) -> None:
    for number in (1, 2):
        conversation(chatwoot, number, 1)
    chatwoot.fault = lambda request: (
        Reply(404, {"error": "Resource could not be found"})
        if request.path.endswith("/conversations/1/messages")
        else None
    )

    result = command("backfill", "loja")
    assert result.code == 0
    assert "Skipped 1 conversation, deleted in Chatwoot" in result.out
    assert ids(stream()) == [2001]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(403, {"error": "You are not authorized to do this action"}),
        Reply(200, HTML, {"Content-Type": "text/html"}),
        Reply(200, {"payload": [{"id": "x"}]}),
    ],
)
def test_what_does_not_pass_ends_it_with_a_line(
    command: Command, chatwoot: Chatwoot, reply: Reply
) -> None:
    conversation(chatwoot, 1, 1)
    chatwoot.fault = lambda _request: reply

    result = command("backfill", "loja")
    assert result.code == 1
    assert result.err.count(f"Chatwoot at {chatwoot.url}") == 1


@pytest.mark.parametrize("parameter", ["before", "page"])
def test_a_server_that_ignores_what_asks_for_the_next_page_ends_it_with_a_line(
    command: Command, chatwoot: Chatwoot, parameter: str
) -> None:
    for number in range(1, 31):
        conversation(chatwoot, number, 25)

    def ignore(request: Request) -> Reply:
        query = {name: text for name, text in request.query.items() if name != parameter}
        return chatwoot.answer(replace(request, query=query))

    chatwoot.fault = ignore

    result = command("backfill", "loja")
    assert result.code == 1
    assert f"ignores `{parameter}`" in result.err
    assert len(chatwoot.requests) < 100


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_reply_that_is_too_large_ends_it_with_a_line(
    command: Command, chatwoot: Chatwoot, *, is_compressed: bool
) -> None:
    body = b" " * (MAX_REPLY_BYTES + 1)
    reply = (
        Reply(200, gzip.compress(body), {"Content-Encoding": "gzip"})
        if is_compressed
        else Reply(200, body)
    )
    chatwoot.fault = lambda _request: reply

    result = command("backfill", "loja")
    assert result.code == 1
    assert f"answers with more than {MAX_REPLY_BYTES} bytes" in result.err


def test_says_what_is_not_known(command: Command) -> None:
    result = command("backfill", "outra")
    assert (result.code, "instance 'outra' is not known: known are 'loja'" in result.err) == (
        2,
        True,
    )

    Path("connect.env").unlink()
    result = command("backfill", "loja")
    assert (result.code, "CHATWOOT_CACHE_CHATWOOT_URL" in result.err) == (2, True)


def test_the_rights_of_an_operator_are_enough(
    command: Command,
    chatwoot: Chatwoot,
    stream: Entries,
    redis_uri: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conversation(chatwoot, 1, 2)
    granted = rules("operator", prefix=prefix, stream=f"{prefix}:events")
    with redis.Redis.from_url(redis_uri) as admin:
        admin.execute_command("ACL", "SETUSER", prefix, "reset", "on", ">p", *granted)
        uri = redis_uri.replace("redis://", f"redis://{prefix}:p@")
        monkeypatch.setenv("CACHE_REDIS_URI", uri)
        result = command("backfill", "loja")
        admin.execute_command("ACL", "DELUSER", prefix)

    assert (result.code, result.err) == (0, "")
    assert len(stream()) == 2
