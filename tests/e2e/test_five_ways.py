"""The five ways in which Evolution's own cache mixes instances: each happens there, and not here.

`Plain` does what Evolution does: keys `prefix:module:instance:what`, joined without escaping, a
scan with the instance's name in it to delete, one field for the provider of whoever comes.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from tests.e2e.place import Place
from tests.e2e.process import command, running
from tests.events import encode, message
from tests.waiting import wait_until


class Plain:
    """A `prefix:module:key` cache."""

    def __init__(self, place: Place, prefix: str = "evolution-cache") -> None:
        self._redis = place.redis
        self._root = f"{place.name}-{prefix}:chatwoot:"
        self._provider: str | None = None

    def take(self, instance: str, body: Any) -> None:
        """Cache what a webhook for an instance brings, under the ids that it has."""
        kept = json.dumps({"content": body["content"], "account": body["account"]["id"]})
        self._redis.set(f"{self._root}{instance}:message:{body['id']}", kept, ex=60)
        conversation = body["conversation"]["id"]
        self._redis.set(f"{self._root}{instance}:conversation:{conversation}", kept, ex=60)

    def message(self, instance: str, message_id: int) -> Any:
        value: Any = self._redis.get(f"{self._root}{instance}:message:{message_id}")
        return value and json.loads(value)

    def conversation(self, instance: str, display_id: int) -> Any:
        value: Any = self._redis.get(f"{self._root}{instance}:conversation:{display_id}")
        return value and json.loads(value)

    def delete_all(self, instance: str) -> None:
        for key in self._redis.scan_iter(f"{self._root}{instance}:*", count=1000):
            self._redis.delete(key)

    async def answer(self, instance: str) -> str | None:
        """Say whose provider answers: the field is everybody's, and reading it takes a while."""
        self._provider = instance
        await anyio.lowlevel.checkpoint()
        return self._provider


async def test_first_deleting_one_instance_deletes_others(place: Place, tmp_path: Path) -> None:
    """`loja` takes `loja:2` with it, and `loja*` and `[lm]oja` take `loja`."""
    names = ("loja", "loja:2", "loja*", "[lm]oja", "moja", "lojas")
    plain = Plain(place)
    lost: dict[str, list[str]] = {}
    for purged in names:
        for number, name in enumerate(names, 1):
            plain.take(name, message(number))
        plain.delete_all(purged)
        lost[purged] = [
            n for i, n in enumerate(names, 1) if not plain.message(n, i) and n != purged
        ]
    assert lost["loja"] == ["loja:2"]
    assert lost["loja*"] == ["loja", "loja:2", "lojas"]
    assert lost["[lm]oja"] == ["loja", "loja:2", "moja"]

    async with running(tmp_path, place.settings()):
        for number, name in enumerate(names, 1):
            place.add(message(number, inbox_id=number, inbox_name=name, conversation_id=number))
        await place.settled()
    left = dict(enumerate(names, 1))
    for number, name in ((1, "loja"), (3, "loja*"), (4, "[lm]oja")):
        assert command(tmp_path, place.settings(), "purge", name, "--yes").returncode == 0
        del left[number]
        cached = {key.split(b":message:")[1] for key in place.found() if b":message:" in key}
        assert cached == {b"%d" % other for other in left}


async def test_second_two_installations_share_every_key(place: Place, tmp_path: Path) -> None:
    """The same prefix and the same instance name on one Redis; another Chatwoot's ids repeat."""
    first = message(1, content="first's")
    second = message(1, content="second's", account_id=1, inbox_id=1)
    plain = Plain(place)
    plain.take("loja", first)
    plain.take("loja", second)
    assert plain.message("loja", 1)["content"] == "second's"

    theirs = place.settings(STREAM_KEY=f"{place.name}:theirs", STREAM_CONSUMER="theirs")
    other = Place(place.uri, place.name)
    other.stream = f"{place.name}:theirs"
    directories = [tmp_path / "ours", tmp_path / "theirs"]
    for directory in directories:
        directory.mkdir()
    with other.redis:
        async with (
            running(directories[0], place.settings()),
            running(directories[1], theirs) as worker,
        ):
            place.add(first)
            await place.settled()
            other.add(second)
            await other.settled()
            await wait_until(lambda: worker.logged("entry.buried"), "it was said")
            (line,) = worker.logged("entry.buried")

            assert other.reasons() == ["instance_conflict"]
            assert (line["inbox"], line["instance"], line["bound"]) == (
                "1/1",
                "loja-aurora",
                "3/12",
            )
            assert "another CACHE_REDIS_PREFIX_KEY" in line["otherwise"]
            assert worker.ops("/readyz").status_code == 200
            sides = {"inbox": "1/1", "bound": "3/12", "evolution_instance": "loja-aurora"}
            assert worker.metric("instance_conflicts_total", **sides) == 1
    assert place.document("loja-aurora", "message", 1)["content"] == "first's"


async def test_third_ids_of_two_accounts_meet(place: Place, tmp_path: Path) -> None:
    """Conversation 7 of account 3, and conversation 7 of account 4, whose inbox is named alike."""
    mine = message(1, conversation_id=7, content="mine")
    others = message(2, conversation_id=7, content="others", account_id=4, inbox_id=20)
    plain = Plain(place)
    plain.take("Whatsapp", mine)
    plain.take("Whatsapp", others)
    assert plain.conversation("Whatsapp", 7)["account"] == 4

    async with running(tmp_path, place.settings()):
        place.add(mine, others)
        await place.settled()
    assert place.document("loja-aurora", "conversation", 7)["account_id"] == 3
    assert place.document("loja-aurora", "message", 2) is None
    assert place.reasons() == ["instance_conflict"]


async def test_fourth_two_webhooks_at_once_answer_with_one_provider(
    place: Place, tmp_path: Path
) -> None:
    plain = Plain(place)
    answers: dict[str, str | None] = {}

    async def ask(instance: str) -> None:
        answers[instance] = await plain.answer(instance)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "loja")
        tasks.start_soon(ask, "padaria")
    assert answers["loja"] == "padaria"

    async with running(tmp_path, place.settings()) as worker, anyio.create_task_group() as tasks:
        for number in range(1, 41):
            name = f"loja-{number % 4}"
            inbox_id = number % 4 + 1
            body = encode(message(number, inbox_id=inbox_id, inbox_name=name, content=name))
            tasks.start_soon(partial(anyio.to_thread.run_sync, partial(worker.post, body)))
    async with running(tmp_path, place.settings()):
        await place.settled()
    for number in range(1, 41):
        for other in range(4):
            found = place.document(f"loja-{other}", "message", number)
            assert (found and found["content"]) == (
                f"loja-{other}" if number % 4 == other else None
            )


async def test_fifth_a_webhook_pasted_into_the_wrong_inbox(place: Place, tmp_path: Path) -> None:
    """And an account-level one, whose URL names one instance, with three inboxes behind it."""
    inboxes = {12: "loja-aurora", 13: "loja-boreal", 14: "padaria"}
    bodies = [message(n, inbox_id=n, inbox_name=name) for n, name in inboxes.items()]
    plain = Plain(place)
    for body in bodies:
        plain.take("loja-aurora", body)
    assert [n for n in inboxes if plain.message("loja-aurora", n)] == [12, 13, 14]

    async with running(tmp_path, place.settings()) as worker:
        for body in bodies:
            assert worker.post(encode(body), "/loja-aurora").status_code == 200
        await place.settled()
    assert [n for n in inboxes if place.document("loja-aurora", "message", n)] == [12]
    assert place.reasons() == ["instance_conflict"] * 2
    assert not [key for key in place.found() if b"boreal" in key or b"padaria" in key]
