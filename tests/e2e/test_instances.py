"""Instances never mix, whoever states what, and however many workers claim at once."""

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.e2e.place import Place
from tests.e2e.process import Worker, running
from tests.events import encode, message, sample
from tests.waiting import wait_until


async def test_two_workers_that_claim_at_once_never_bind_apart(
    place: Place, tmp_path: Path
) -> None:
    """A hundred names, each wanted by two accounts at once: each has one owner in the end."""
    names = [f"loja-{number}" for number in range(100)]
    async with AsyncExitStack() as stack:
        workers: list[Worker] = []
        for number in (1, 2):
            directory = tmp_path / str(number)
            directory.mkdir()
            settings = place.settings(STREAM_CONSUMER=f"worker-{number}", STREAM_BATCH_SIZE="3")
            workers.append(await stack.enter_async_context(running(directory, settings)))
        place.add(
            *(
                message(
                    1000 * account + number,
                    account_id=account,
                    inbox_id=number + 1,
                    inbox_name=name,
                    conversation_id=number + 1,
                )
                for number, name in enumerate(names)
                for account in (3, 4)
            )
        )
        await place.settled()

        assert all(worker.metric("entries_acked_total") > 0 for worker in workers)

    bindings: Any = place.redis.hgetall(place.key("%bindings"))
    accounts: Any = place.redis.hgetall(place.key("%accounts"))
    assert Counter(bindings.values()) == Counter(name.encode() for name in names)
    assert place.reasons() == ["instance_conflict"] * 100
    for number, name in enumerate(names):
        owner = int(accounts[name.encode()])
        assert place.document(name, "message", 1000 * owner + number)["account_id"] == owner
        assert place.document(name, "message", 1000 * (7 - owner) + number) is None
        assert place.document(name, "conversation", number + 1)["account_id"] == owner


async def test_what_is_stated_is_checked_against_what_is_bound(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await place.settled()
        # The URL names another instance; a producer states another; the name alone wants to join.
        assert worker.post(encode(message(2)), "/loja-boreal").status_code == 200
        assert worker.post(encode(message(3)), "/loja-aurora").status_code == 200
        place.add(message(4), instance=b"loja-boreal")
        place.add(message(5, inbox_id=13))
        # The same inbox id and name in another account is somebody else's.
        place.add(message(6, account_id=4))
        await place.settled()
        # A producer may join a further inbox of the same account, and of no other.
        place.add(message(7, inbox_id=13), instance=b"loja-aurora")
        place.add(message(8, inbox_id=14, account_id=4), instance=b"loja-aurora")
        await place.settled()

        assert worker.metric("dead_letters_total", reason="instance_conflict") == 5
        (first, *_) = worker.logged("entry.buried")
        assert (first["inbox"], first["bound"]) == ("3/12", "loja-aurora")
        assert first["instance"] == "loja-boreal"
        assert first["allow"] == (
            "chatwoot-cache bindings set 3/12 loja-boreal"
            " && chatwoot-cache dead replay --reason instance_conflict"
        )
        assert worker.metric("instance_conflicts_total", bound="loja-aurora") == 2

    assert place.reasons() == ["instance_conflict"] * 5
    cached = [n for n in range(1, 9) if place.document("loja-aurora", "message", n)]
    assert cached == [1, 3, 7]
    assert not [key for key in place.found() if b"loja-boreal" in key]


async def test_an_inbox_of_another_channel_is_nobodys_until_somebody_says(
    place: Place, tmp_path: Path
) -> None:
    website = message(1, inbox_id=15, inbox_name="Site", channel="Channel::WebWidget")
    async with running(tmp_path, place.settings()) as worker:
        place.add(website)
        await place.settled()
        assert worker.metric("entries_settled_total", outcome="ignored") == 1
        assert place.found() == set()
        place.add(website, instance=b"loja-aurora")
        place.add(website | {"id": 2})
        await place.settled()

    assert place.document("loja-aurora", "message", 1)
    # Bound now, so its next event needs no word.
    assert place.document("loja-aurora", "message", 2)
    assert place.letters() == []


async def test_the_operator_outranks_what_was_bound(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await place.settled()
        assert await worker.stop() == 0
    operator = place.settings(INSTANCES="{3/12: renamed, 3/15: renamed}")
    async with running(tmp_path, operator):
        place.add(message(2))
        place.add(message(3), instance=b"loja-aurora")
        place.add(message(4, inbox_id=15, inbox_name="Site", channel="Channel::WebWidget"))
        await place.settled()

    assert place.document("renamed", "message", 2)
    assert place.document("renamed", "message", 4)
    assert place.reasons() == ["instance_conflict"]
    assert place.document("loja-aurora", "message", 2) is None


async def test_names_are_believed_only_where_the_operator_allows(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings(INSTANCE_FROM_INBOX_NAME="false")):
        place.add(message(1))
        await place.settled()
        place.add(message(2), instance=b"stated")
        await place.settled()

    assert place.reasons() == ["no_instance"]
    assert place.document("stated", "message", 2)


async def test_a_conversation_without_account_belongs_to_the_one_inbox_of_its_id(
    place: Place, tmp_path: Path
) -> None:
    """As Chatwoot sent it before 2026; where two accounts have that inbox id, nobody guesses."""
    event = sample("12") | {"messages": []}
    async with running(tmp_path, place.settings()):
        place.add(event)
        await place.settled()
        assert place.reasons() == ["no_instance"]
        place.add(message(1))
        place.add(event | {"id": 77})
        await place.settled()
        assert place.document("loja-aurora", "conversation", 77)["account_id"] == 3
        place.add(message(2, account_id=4, inbox_name="loja-boreal"))
        place.add(event | {"id": 78})
        await place.settled()

    assert place.reasons() == ["no_instance", "no_instance"]
    assert not [key for key in place.found() if key.endswith(b":conversation:78")]


async def test_names_that_look_like_keys_stay_names(place: Place, tmp_path: Path) -> None:
    names = ["a", "a:message", "a:message:1", "a%3Amessage", "*", "a*", "{a}", "loja são josé", "%"]
    async with running(tmp_path, place.settings()) as worker:
        for number, name in enumerate(names, 1):
            place.add(message(number, inbox_id=number, inbox_name=name, conversation_id=number))
        await place.settled()
        await wait_until(lambda: worker.metric("entries_acked_total") == len(names), "counted")
        for name in names:
            assert worker.metric("events_total", evolution_instance=name) == 1

    stored = [key for key in place.found() if b":message:" in key]
    assert len(stored) == len(names)
    assert place.document("a%3Amessage", "message", 2)["instance"] == "a:message"
    assert place.document("a%253Amessage", "message", 4)["instance"] == "a%3Amessage"
    assert place.document("%25", "message", 9)["instance"] == "%"
    assert place.letters() == []
