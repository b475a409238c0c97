"""Ten thousand entries nobody should send: each ends as a dead letter, with the right reason."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.e2e.conftest import ServerStarter
from tests.e2e.process import running
from tests.events import encode, message

Entry = Mapping[bytes, bytes]

TOTAL: Final = 10_000
MIB: Final = 1024 * 1024


def payload(body: bytes, **fields: bytes) -> Entry:
    return {b"payload": body, **{name.encode(): value for name, value in fields.items()}}


def altered(**members: Any) -> Entry:
    """A sound event but for these members; None takes one away."""
    body = message() | members
    return payload(encode({name: value for name, value in body.items() if value is not None}))


def conversation(**members: Any) -> Entry:
    return altered(conversation=message()["conversation"] | members)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


MALFORMED: Final[Mapping[str, tuple[Callable[[], Entry], str]]] = {
    "not JSON": (lambda: payload(b"Oi!"), "bad_json"),
    "nothing": (lambda: payload(b""), "bad_json"),
    "cut off": (lambda: payload(encode(message())[:-9]), "bad_json"),
    "two bodies": (lambda: payload(encode(message()) * 2), "bad_json"),
    "an array": (lambda: payload(b"[" + encode(message()) + b"]"), "bad_json"),
    "a string": (lambda: payload(json.dumps(encode(message()).decode()).encode()), "bad_json"),
    "null": (lambda: payload(b"null"), "bad_json"),
    "a number": (lambda: payload(b"42"), "bad_json"),
    "not UTF-8": (lambda: payload(encode(message()).replace(b"Oi!", b"Oi\xff")), "bad_json"),
    "UTF-16": (lambda: payload(encode(message()).decode().encode("utf-16")), "bad_json"),
    "half a surrogate pair": (
        lambda: payload(encode(message()).replace(b"Oi!", b"\\ud83d")),
        "bad_json",
    ),
    "out of range": (
        lambda: payload(encode(message()).replace(b'"id":90214', b'"id":1e999')),
        "bad_json",
    ),
    "an empty object": (lambda: payload(b"{}"), "bad_event"),
    "no event": (lambda: altered(event=None), "bad_event"),
    "event is a number": (lambda: altered(event=7), "bad_event"),
    "no id": (lambda: altered(id=None), "bad_event"),
    "id is a string": (lambda: altered(id="90214"), "bad_event"),
    "id is negative": (lambda: altered(id=-1), "bad_event"),
    "id is a fraction": (lambda: altered(id=1.5), "bad_event"),
    "id is beyond what JavaScript counts": (lambda: altered(id=2**53), "bad_event"),
    "no conversation": (lambda: altered(conversation=None), "bad_event"),
    "conversation is a list": (lambda: altered(conversation=[1]), "bad_event"),
    "conversation without id": (lambda: conversation(id=None), "bad_event"),
    "conversation's id is a string": (lambda: conversation(id="1584"), "bad_event"),
    "no inbox": (
        lambda: altered(
            inbox=None,
            conversation=message()["conversation"] | {"inbox_id": None, "messages": []},
        ),
        "bad_event",
    ),
    "no message type": (lambda: altered(message_type=None), "bad_event"),
    "an unknown message type": (lambda: altered(message_type="telegram"), "bad_event"),
    "content is an object": (lambda: altered(content={"text": "Oi!"}), "bad_event"),
    "attachments is a string": (lambda: altered(attachments="photo"), "bad_event"),
    "sender is a list": (lambda: altered(sender=["x"]), "bad_event"),
    "labels is a string": (lambda: conversation(labels="vip"), "bad_event"),
    "attributes nested too deeply": (
        lambda: conversation(custom_attributes=json.loads(nested(150))),
        "bad_event",
    ),
    "no payload": (lambda: {b"body": encode(message())}, "bad_entry"),
    "a thousand fields": (
        lambda: {b"field %d" % number: b"x" for number in range(1100)},
        "bad_entry",
    ),
    "an id of 14 digits": (
        lambda: payload(encode(message()), _id=b"99999999999999-0"),
        "bad_entry",
    ),
    "an id that is none": (lambda: payload(encode(message()), _id=b"yesterday"), "bad_entry"),
    "an instance without a name": (lambda: payload(encode(message()), instance=b""), "bad_entry"),
    "an instance of 256 bytes": (
        lambda: payload(encode(message()), instance=b"x" * 256),
        "bad_entry",
    ),
    "an instance that is not UTF-8": (
        lambda: payload(encode(message()), instance=b"loja\xff"),
        "bad_entry",
    ),
    "another instance expected": (
        lambda: payload(encode(message()), expect=b"loja-boreal"),
        "instance_conflict",
    ),
    "another account signed": (
        lambda: payload(encode(message()), account=b"9"),
        "instance_conflict",
    ),
    "nobody says which instance": (
        lambda: payload(encode(message(inbox_id=99, inbox_name=""))),
        "no_instance",
    ),
}

LARGE: Final[Mapping[str, tuple[Callable[[], Entry], str]]] = {
    "nested too deeply": (lambda: payload(nested(200_000)), "bad_json"),
    "5 MB of text": (lambda: payload(b"x" * 5 * MIB), "bad_json"),
    "a message of 5 MB": (lambda: altered(content="x" * 5 * MIB), "too_large"),
    "5 MB in a strange field": (lambda: {b"body": b"x" * 5 * MIB}, "bad_entry"),
}


def good(number: int) -> Entry:
    return payload(encode(message(1_000_000 + number, conversation_id=1 + number % 50)))


def entries() -> Iterator[tuple[Entry, str | None]]:
    """Give each entry with the reason it must end with; every tenth is sound."""
    prepared = [(make(), reason) for make, reason in MALFORMED.values()]
    large = [(make(), reason) for make, reason in LARGE.values()]
    for number in range(TOTAL):
        kinds = large if number % 500 == 0 else prepared
        yield kinds[number % len(kinds)]
        if number % 10 == 0:
            yield good(number), None


async def test_every_malformed_entry_is_buried_and_every_good_one_cached(
    private: ServerStarter, tmp_path: Path
) -> None:
    _, place = private()
    expected = list(entries())
    for start in range(0, len(expected), 500):
        place.add_entries(entry for entry, _ in expected[start : start + 500])

    async with running(tmp_path, place.settings(DEAD_MAX_ENTRIES="20000")) as worker:
        await place.settled(timeout_s=30)

        reasons = [reason for _, reason in expected if reason]
        for reason in set(reasons):
            assert worker.metric("dead_letters_total", reason=reason) == reasons.count(reason)
        assert worker.metric("entries_acked_total") == len(expected)
        assert worker.rss_bytes < 400 * MIB
        assert worker.ops("/readyz").status_code == 200
        # Once a minute for each cause, not once for each entry.
        assert len(worker.logged("entry.buried")) < 20

    assert place.reasons() == reasons
    assert place.pending() == []
    with place.redis.pipeline(transaction=False) as pipeline:
        for number in range(0, TOTAL, 10):
            pipeline.exists(place.key("loja-aurora", "message", 1_000_000 + number))
        assert all(pipeline.execute())
    letter = place.letters()[1]
    sent, why = expected[2]
    assert letter.items() >= sent.items()
    assert letter[b"_reason"].decode() == why
    assert {b"_id", b"_stream", b"_error", b"_attempts", b"_consumer", b"_at"} <= letter.keys()


async def test_many_large_entries_need_little_memory(
    private: ServerStarter, tmp_path: Path
) -> None:
    """A batch has a size in bytes too, and nothing keeps what was buried."""
    _, place = private()
    for _ in range(40):
        place.add(b"x" * 5 * MIB)

    async with running(tmp_path, place.settings()) as worker:
        await place.settled(timeout_s=20)

        assert worker.rss_bytes < 180 * MIB
        assert worker.metric("dead_letters_total", reason="bad_json") == 40
